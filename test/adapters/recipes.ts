// What the README says about libraries without an adapter, as it stands there.

import { ChangeMessageVisibilityCommand, DeleteMessageCommand, ReceiveMessageCommand, type Message } from '@aws-sdk/client-sqs'
import { Cron } from 'croner'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { fastifyFargate } from '../../lib/index.js'
import { type FargateOptions } from '../../types/index.js'
import { memoryLog } from '../support/log.js'
import { startQueue } from '../support/sqs.js'

/** Not booted yet. */
async function serve (t: Test, options: FargateOptions = {}) {
  const memory = memoryLog()
  const app = Fastify({ loggerInstance: memory.log }) as unknown as FastifyInstance
  await app.register(fastifyFargate, { stopTimeout: 20, ...options })
  t.teardown(() => app.close())
  return { ...memory, app, shutdown: app.shutdown }
}

function deferred () {
  let resolve!: () => void
  const promise = new Promise<void>((_resolve) => { resolve = _resolve })
  return { promise, resolve }
}

t.test('croner: a run that is under way is waited for, and no other begins', async (t) => {
  const { app, shutdown } = await serve(t)
  const begun = deferred()
  const end = deferred()
  let runs = 0
  const job = new Cron('* * * * * *', { protect: true }, async () => {
    runs++
    begun.resolve()
    await end.promise
  })
  shutdown.addWorker({ name: 'nightly', stop: () => { job.stop() }, active: () => job.isBusy() ? 1 : 0 })
  await begun.promise
  let isPoolClosed = false
  app.addHook('onClose', async () => { isPoolClosed = true })
  const stopped = shutdown.begin('a stop')
  await new Promise((resolve) => { setImmediate(resolve) })
  t.strictSame([shutdown.state, isPoolClosed], ['closing', false])
  end.resolve()
  t.match(await stopped, { exitCode: 0, cut: [] })
  t.equal(runs, 1)
})

t.test('croner: a run that hangs is named', async (t) => {
  const { shutdown } = await serve(t, { stopTimeout: 2, margin: 0.5 })
  const begun = deferred()
  const job = new Cron('* * * * * *', { protect: true }, async () => { begun.resolve(); await new Promise(() => {}) })
  shutdown.addWorker({ name: 'nightly', stop: () => { job.stop() }, active: () => job.isBusy() ? 1 : 0 })
  await begun.promise
  t.match(await shutdown.begin('a stop'), { exitCode: 1, cut: [{ kind: 'worker', name: 'worker nightly, 1 active' }] })
})

t.test('a plain loop on SQS: what runs is finished and deleted, what the last poll brings goes back', async (t) => {
  const queue = await startQueue(t)
  const sqs = queue.client()
  const { queueUrl: QueueUrl } = queue
  const { app, of, shutdown } = await serve(t)
  const begun = deferred()
  const end = deferred()
  const handled: string[] = []
  const handle = async (message: Message, _signal: AbortSignal) => {
    begun.resolve()
    await end.promise
    handled.push(message.Body!)
  }
  let polls = 0

  async function poll () {
    while (!shutdown.signal.aborted) {
      polls++
      const { Messages = [] } = await sqs.send(new ReceiveMessageCommand({ QueueUrl, MaxNumberOfMessages: 2, WaitTimeSeconds: 1 }), { abortSignal: shutdown.abortSignal })
      await Promise.allSettled(Messages.map((message) => shutdown.run('order', async ({ abortSignal }) => {
        await handle(message, abortSignal)
        await sqs.send(new DeleteMessageCommand({ QueueUrl, ReceiptHandle: message.ReceiptHandle }))
      }).catch((err: unknown) => {
        app.log.warn({ err }, 'an order goes back')
        return sqs.send(new ChangeMessageVisibilityCommand({ QueueUrl, ReceiptHandle: message.ReceiptHandle, VisibilityTimeout: 0 }))
      })))
    }
  }

  await queue.send(2)
  shutdown.waitUntil('poll', poll())
  await begun.promise
  const stopped = shutdown.begin('a stop')
  await queue.send(1)
  end.resolve()
  t.match(await stopped, { exitCode: 0, cut: [], errors: [] })
  t.strictSame([handled.length, polls, await queue.left()], [2, 1, { messages: 1, hidden: 0 }])

  const late = await serve(t)
  const polling = deferred()
  const stop = polling.promise.then(() => late.shutdown.begin('a stop'))
  const pollOnce = async () => {
    const received = sqs.send(new ReceiveMessageCommand({ QueueUrl, WaitTimeSeconds: 1 }))
    polling.resolve()
    await new Promise((resolve) => { late.shutdown.signal.addEventListener('abort', resolve) })
    const { Messages = [] } = await received
    await Promise.allSettled(Messages.map((message) => late.shutdown.run('order', () => handle(message, late.shutdown.abortSignal)).catch(() =>
      sqs.send(new ChangeMessageVisibilityCommand({ QueueUrl, ReceiptHandle: message.ReceiptHandle, VisibilityTimeout: 0 })))))
  }
  late.shutdown.waitUntil('poll', pollOnce())
  t.match(await stop, { exitCode: 0 })
  t.strictSame(await queue.left(), { messages: 1, hidden: 0 })
  t.strictSame([handled.length, of('warn')], [2, []])
})
