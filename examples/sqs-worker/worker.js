// A worker: an SQS queue, a nightly job, and health routes for ECS. QUEUE_URL is all that it needs; the SDK finds
// region and credentials by itself.
import { setTimeout as sleep } from 'node:timers/promises'
import { ChangeMessageVisibilityCommand, SQSClient } from '@aws-sdk/client-sqs'
import fastifySchedule from '@fastify/schedule'
import Fastify from 'fastify'
import fastifyFargate from 'fastify-fargate'
import { addSchedule } from 'fastify-fargate/schedule'
import { createSqsConsumer } from 'fastify-fargate/sqs-consumer'
import { Consumer } from 'sqs-consumer'
import { AsyncTask, CronJob } from 'toad-scheduler'

const { NIGHTLY = '0 3 * * *', PORT = '3000', QUEUE_URL: queueUrl } = process.env

const app = Fastify({ logger: true })
await app.register(fastifyFargate)

// What the jobs need. It is closed when the last of them has ended.
const pool = { isOpen: true, query: async () => { if (!pool.isOpen) throw new Error('the pool is closed') } }
app.addHook('onClose', async () => { pool.isOpen = false })

await app.register(fastifySchedule)
addSchedule(app)
app.scheduler.addCronJob(new CronJob({ cronExpression: NIGHTLY }, new AsyncTask('nightly', async () => {
  await pool.query()
  await sleep(500)
  await pool.query()
  app.log.info('the nightly job is done')
}, (err) => { app.log.error({ err }, 'the nightly job has failed') }), { preventOverrun: true }))

const consumer = createSqsConsumer(app, { Consumer, ChangeMessageVisibilityCommand }, {
  queueUrl,
  sqs: new SQSClient(),
  batchSize: 10,
  // An idle worker stops after so many seconds at the latest.
  waitTimeSeconds: 1,
  visibilityTimeout: 30,
  async handleMessage (message, { abortSignal }) {
    await pool.query()
    await sleep(20 + Math.random() * 400, undefined, { signal: abortSignal })
    await pool.query()
    app.log.info({ order: message.Body }, 'processed')
    return message
  }
})
for (const event of ['error', 'processing_error']) consumer.on(event, (err) => { app.log.error({ err }, event) })
app.addHook('onListen', async () => { consumer.start() })

await app.listen({ port: Number(PORT), host: '0.0.0.0' })
