import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Kafka's own client as a program: see __init__.py. */
public class Client {
    public static void main(String[] given) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", given[1]);
        switch (given[0]) {
            case "produce" -> produce(settings, given[2], given[3]);
            case "consume" -> consume(settings, given[2], given[3]);
            default -> administer(settings, given[0], given[2]);
        }
    }

    static void produce(Properties settings, String topic, String compression) throws Exception {
        settings.put("compression.type", compression);
        settings.put("linger.ms", 5);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            List<Future<?>> sent = new ArrayList<>();
            var lines = new BufferedReader(new InputStreamReader(System.in));
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                sent.add(producer.send(new ProducerRecord<>(topic, line)));
            }
            for (Future<?> one : sent) {
                one.get();
            }
        }
    }

    static void consume(Properties settings, String topic, String group) {
        settings.put("group.id", group);
        settings.put("session.timeout.ms", 6000);
        settings.put("heartbeat.interval.ms", 1000);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join();
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
            }
        }));
        consumer.subscribe(List.of(topic));
        try {
            while (true) {
                var records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                try {
                    consumer.commitSync();
                } catch (CommitFailedException | RetriableException error) {
                    System.err.println(error);
                    continue;
                }
                records.forEach(record -> System.out.println(record.value()));
            }
        } catch (WakeupException stopped) {
            consumer.close();
        }
    }

    static void administer(Properties settings, String command, String topic) throws Exception {
        try (Admin admin = Admin.create(settings)) {
            switch (command) {
                case "create" -> admin.createTopics(List.of(new NewTopic(topic, 3, (short) 3))).all().get();
                case "delete" -> admin.deleteTopics(List.of(topic)).all().get();
                case "describe" -> {
                    var found = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
                    System.out.println(found.partitions().size());
                }
                default -> admin.listTopics().names().get().forEach(System.out::println);
            }
        }
    }
}
