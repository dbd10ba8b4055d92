import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InterruptException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * What tests/kafka/exactly_once.py does, with Kafka's own client: reads numbers, writes each one on with its partition
 * and offset, and does both exactly once.
 *
 * Arguments: bootstrap servers, source, target, group, transactional id. Ends when its standard input does, and says
 * how often what happened.
 */
public final class ExactlyOnce {
    private static volatile boolean stopping = false;
    private static final Map<String, Integer> counts = new TreeMap<>();

    public static void main(String[] args) throws Exception {
        Thread listening = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    continue;
                }
            } catch (IOException ended) {
                // as if it had ended
            }
            stopping = true;
        });
        listening.setDaemon(true);
        listening.start();
        Properties reading = new Properties();
        reading.put("bootstrap.servers", args[0]);
        reading.put("group.id", args[3]);
        reading.put("isolation.level", "read_committed");
        reading.put("enable.auto.commit", "false");
        reading.put("auto.offset.reset", "earliest");
        reading.put("session.timeout.ms", "10000");
        reading.put("max.poll.records", "50");
        reading.put("key.deserializer", ByteArrayDeserializer.class.getName());
        reading.put("value.deserializer", ByteArrayDeserializer.class.getName());
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(reading)) {
            consumer.subscribe(Set.of(args[1]));
            while (!stopping) {
                try (KafkaProducer<byte[], byte[]> producer = producer(args[0], args[4])) {
                    withProducer(consumer, producer, args[2]);
                } catch (KafkaException unusable) {
                    count("began anew");
                }
            }
        }
        StringBuilder said = new StringBuilder("{");
        counts.forEach((what, number) ->
            said.append(said.length() > 1 ? ", " : "").append('"').append(what).append("\": ").append(number));
        System.out.println(said.append("}"));
    }

    private static KafkaProducer<byte[], byte[]> producer(String bootstrap, String transactionalId) {
        Properties writing = new Properties();
        writing.put("bootstrap.servers", bootstrap);
        writing.put("transactional.id", transactionalId);
        writing.put("transaction.timeout.ms", "30000");
        writing.put("linger.ms", "2");
        writing.put("key.serializer", ByteArraySerializer.class.getName());
        writing.put("value.serializer", ByteArraySerializer.class.getName());
        return new KafkaProducer<>(writing);
    }

    /** Returns when the worker is to stop. Throws where the producer cannot be used any more. */
    private static void withProducer(
            KafkaConsumer<byte[], byte[]> consumer, KafkaProducer<byte[], byte[]> producer, String target) {
        again(producer::initTransactions);
        rewind(consumer);
        while (!stopping) {
            ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
            if (records.isEmpty()) {
                continue;
            }
            try {
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (ConsumerRecord<byte[], byte[]> one : records) {
                    String number = new String(one.value(), StandardCharsets.US_ASCII);
                    String moved = "[" + one.partition() + ", " + one.offset() + ", " + number + "]";
                    producer.send(new ProducerRecord<>(
                        target, one.partition(), null, moved.getBytes(StandardCharsets.US_ASCII)));
                    offsets.put(
                        new TopicPartition(one.topic(), one.partition()), new OffsetAndMetadata(one.offset() + 1));
                }
                again(() -> producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata()));
                again(producer::commitTransaction);
                count("committed");
            } catch (InterruptException stopped) {
                throw stopped;
            } catch (KafkaException failed) {
                again(producer::abortTransaction); // throws where it is not for this producer to abort any more
                count("aborted");
                rewind(consumer);
            }
        }
    }

    private static void again(Runnable call) {
        while (true) {
            try {
                call.run();
                return;
            } catch (TimeoutException unknown) {
                count("tried again");
                if (stopping) {
                    throw unknown;
                }
            }
        }
    }

    /** Back to what is committed: what was read since is in no transaction. */
    private static void rewind(KafkaConsumer<byte[], byte[]> consumer) {
        Set<TopicPartition> assigned = consumer.assignment();
        again(() -> {
            Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(assigned);
            for (TopicPartition place : assigned) {
                OffsetAndMetadata found = committed.get(place);
                consumer.seek(place, found == null ? 0 : found.offset());
            }
        });
    }

    private static synchronized void count(String what) {
        counts.merge(what, 1, Integer::sum);
    }
}
