// kafkajs as a program: see __init__.py
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const readline = require('readline')

CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')

const [command, bootstrap, topic, more] = process.argv.slice(2)
const kafka = new Kafka({ brokers: bootstrap.split(','), logLevel: logLevel.NOTHING, retry: { retries: 30, maxRetryTime: 1000 } })

async function produce() {
  const compression = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy }[more]
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for await (const value of readline.createInterface({ input: process.stdin })) {
    await producer.send({ topic, compression, acks: -1, messages: [{ value }] })
  }
  await producer.disconnect()
}

async function consume() {
  const consumer = kafka.consumer({ groupId: more, sessionTimeout: 6000, heartbeatInterval: 1000, rebalanceTimeout: 10000 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  process.on('SIGTERM', () => consumer.disconnect().then(() => process.exit(0)))
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ topic, partition, message }) => {
      await consumer.commitOffsets([{ topic, partition, offset: String(BigInt(message.offset) + 1n) }])
      process.stdout.write(message.value.toString() + '\n')
    },
  })
}

async function administer() {
  const admin = kafka.admin()
  await admin.connect()
  if (command === 'create') await admin.createTopics({ topics: [{ topic, numPartitions: 3, replicationFactor: 3 }] })
  if (command === 'delete') await admin.deleteTopics({ topics: [topic] })
  if (command === 'describe') console.log((await admin.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length)
  if (command === 'list') console.log((await admin.listTopics()).join('\n'))
  await admin.disconnect()
}

const run = { produce, consume }[command] || administer
run().catch((error) => {
  console.error(error)
  process.exit(1)
})
