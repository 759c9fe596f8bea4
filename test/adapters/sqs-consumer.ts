import { ChangeMessageVisibilityCommand, type Message, type SQSClient } from '@aws-sdk/client-sqs'
import Fastify, { type FastifyInstance } from 'fastify'
import { Consumer } from 'sqs-consumer'
import t, { type Test } from 'tap'
import { createSqsConsumer, type SqsConsumerOptions } from '../../lib/adapters/sqs-consumer.js'
import { fastifyFargate } from '../../lib/index.js'
import { type FargateOptions } from '../../types/index.js'
import { memoryLog } from '../support/log.js'
import { random as seeded } from '../support/random.js'
import { startQueue, type Queue } from '../support/sqs.js'

const libraries = { Consumer, ChangeMessageVisibilityCommand }

/** A service that listens nowhere, and a consumer with a client of its own. */
async function serve (t: Test, queue: Queue, options: Partial<SqsConsumerOptions>, fargate: FargateOptions = {}, client: SQSClient = queue.client()) {
  const memory = memoryLog()
  const app = Fastify({ loggerInstance: memory.log }) as unknown as FastifyInstance
  await app.register(fastifyFargate, { stopTimeout: 20, ...fargate })
  const consumer = createSqsConsumer(app, libraries, { queueUrl: queue.queueUrl, sqs: client, waitTimeSeconds: 0, ...options })
  const errors: string[] = []
  for (const event of ['error', 'processing_error', 'timeout_error'] as const) consumer.on(event, (...[error]: [Error, ...unknown[]]) => { errors.push(error.message) })
  await app.ready()
  t.teardown(() => {
    consumer.stop({ abort: true })
    return app.close()
  })
  return { ...memory, app, client, consumer, errors }
}

function deferred<T = void> () {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((_resolve) => { resolve = _resolve })
  return { promise, resolve }
}

/** Calls `before` ahead of every command that the client sends, with its name, and `after` behind its answer. */
function watch (client: SQSClient, { before = () => {}, after = () => {} }: { before?: (name: string, input: any) => unknown, after?: (name: string, output: any) => unknown }) {
  client.middlewareStack.add((next, context) => async (args) => {
    const name = context.commandName!.replace('Command', '')
    await before(name, args.input)
    const result = await next(args)
    await after(name, result.output)
    return result
  }, { step: 'initialize' })
}

t.test('200 stops at random instants: everything is processed once, and deleted', async (t) => {
  const STOPS = 200
  const queue = await startQueue(t)
  const { next } = seeded(20261124)
  const below = (n: number) => Math.floor(next() * n)
  const processed = new Map<string, number>()
  let sent = 0
  const process = async (messages: Message[]) => {
    for (let turns = below(6); turns > 0; turns--) await new Promise((resolve) => { setImmediate(resolve) })
    for (const { Body } of messages) processed.set(Body!, (processed.get(Body!) ?? 0) + 1)
  }
  const reports = []
  const client = queue.client()
  for (let i = 0; i < STOPS; i++) {
    await queue.send(10)
    sent += 10
    const isBatch = i % 3 === 0
    let countdown = below(30)
    const instant = deferred()
    // An instant: before or after any command, or inside of a handler.
    const tick = () => { if (countdown-- === 0) instant.resolve() }
    const own = Object.create(client, {
      send: {
        value: async (...args: Parameters<SQSClient['send']>) => {
          tick()
          try {
            return await client.send(...args)
          } finally {
            tick()
          }
        }
      }
    }) as SQSClient
    const handlers: Partial<SqsConsumerOptions> = isBatch
      ? { batchSize: 1 + below(10), handleMessageBatch: async (messages) => { tick(); await process(messages); tick(); return messages } }
      : { batchSize: 1 + below(10), handleMessage: async (message) => { tick(); await process([message]); tick(); return message } }
    const { app, consumer, errors } = await serve(t, queue, handlers, {}, own)
    consumer.start()
    await instant.promise
    reports.push(await app.shutdown.begin('a stop'))
    t.strictSame(errors, [], `stop ${i}`)
  }
  t.strictSame(reports.filter(({ exitCode }) => exitCode !== 0), [])
  const atOnce = await queue.left()
  t.equal(atOnce.hidden, 0, 'whatever was not processed is there for the next task at once')
  t.equal(atOnce.messages, sent - processed.size, 'what was processed was deleted, and nothing else')

  const { app, consumer } = await serve(t, queue, { batchSize: 10, handleMessage: async (message) => { await process([message]); return message } })
  const empty = new Promise((resolve) => { consumer.once('empty', resolve) })
  consumer.start()
  await empty
  await app.shutdown.begin('the last stop')
  t.strictSame(await queue.left(), { messages: 0, hidden: 0 })
  t.equal(processed.size, sent)
  t.strictSame([...processed].filter(([, times]) => times !== 1), [], 'nothing was processed twice')
})

t.test('a poll that is under way', async (t) => {
  t.test('is waited for, and what it brings goes back at once, whatever the consumer does with failures', async (t) => {
    for (const options of [{}, { alwaysAcknowledge: true, terminateVisibilityTimeout: 600 }, { batch: true }] as Array<Partial<SqsConsumerOptions> & { batch?: boolean }>) {
      const queue = await startQueue(t)
      const { batch, ...rest } = options
      const polling = deferred()
      const client = queue.client()
      watch(client, { before: (name) => { if (name === 'ReceiveMessage') polling.resolve() } })
      let handled = 0
      const handler = async () => { handled++; return undefined }
      const { app, consumer, of } = await serve(t, queue, { ...rest, batchSize: 10, waitTimeSeconds: 1, ...batch ? { handleMessageBatch: handler } : { handleMessage: handler } }, {}, client)
      consumer.start()
      await polling.promise
      const stopped = app.shutdown.begin('a stop')
      await queue.send(3)
      t.match(await stopped, { exitCode: 0, cut: [] })
      t.equal(handled, 0)
      const left = await queue.left()
      t.equal(left.hidden, 0)
      t.equal(left.messages, 3)
      t.ok(of('info').some((text) => /^sqs orders: gave [123] back that the last poll has brought$/.test(text)))
    }
  })

  t.test('is aborted at the abort mark, when it brings nothing until then', async (t) => {
    const queue = await startQueue(t)
    const polling = deferred()
    const client = queue.client()
    watch(client, { before: (name) => { if (name === 'ReceiveMessage') polling.resolve() } })
    const { app, consumer, errors } = await serve(t, queue, { waitTimeSeconds: 20, handleMessage: async (message) => message }, { stopTimeout: 2, margin: 0.5, abortGrace: 0.4 }, client)
    consumer.start()
    await polling.promise
    const report = await app.shutdown.begin('a stop')
    t.match(report, { exitCode: 0, cut: [] })
    t.ok(report.durations.totalMs >= 1100, 'not before')
    t.match(errors, [/abort/i])
  })

  t.test('is aborted when the application wants that, and one that comes too late is not sent', async (t) => {
    const queue = await startQueue(t)
    const polling = deferred()
    const client = queue.client()
    watch(client, { before: (name) => { if (name === 'ReceiveMessage') polling.resolve() } })
    const { consumer, errors } = await serve(t, queue, { waitTimeSeconds: 20, handleMessage: async (message) => message }, {}, client)
    const failed = new Promise((resolve) => { consumer.once('error', resolve) })
    consumer.start()
    await polling.promise
    consumer.stop({ abort: true })
    await failed
    t.match(errors, [/abort/i])

    const gate = deferred()
    const late = await serve(t, queue, { preReceiveMessageCallback: () => gate.promise, handleMessage: async (message) => message }, { stopTimeout: 2, margin: 0.5, abortGrace: 0.4 })
    late.consumer.start()
    const stopped = late.app.shutdown.begin('a stop')
    await new Promise((resolve) => { late.app.shutdown.abortSignal.addEventListener('abort', resolve) })
    gate.resolve()
    t.match(await stopped, { exitCode: 0 })
    t.match(late.errors, [/abort/i])
  })
})

t.test('a handler that runs', async (t) => {
  t.test('finishes, and its message is deleted, also by a consumer that is told to abort everything', async (t) => {
    const queue = await startQueue(t)
    await queue.send(1)
    const begun = deferred()
    const end = deferred()
    const { app, consumer } = await serve(t, queue, { handleMessage: async (message) => { begun.resolve(); await end.promise; return message } })
    consumer.start()
    await begun.promise
    const stopped = app.shutdown.begin('a stop')
    consumer.stop({ abort: true })
    end.resolve()
    t.match(await stopped, { exitCode: 0, errors: [] })
    t.strictSame(await queue.left(), { messages: 0, hidden: 0 })
  })

  t.test('is told to give up at the abort mark, and its message goes back and stays there', async (t) => {
    const queue = await startQueue(t)
    await queue.send(1)
    const begun = deferred()
    const { app, consumer, errors, of } = await serve(t, queue, {
      terminateVisibilityTimeout: 600,
      handleMessage: async (_message, { abortSignal }) => {
        begun.resolve()
        await new Promise((resolve) => { abortSignal.addEventListener('abort', resolve) })
        throw new Error('rolled back')
      }
    }, { stopTimeout: 2, margin: 0.5, abortGrace: 0.4 })
    consumer.start()
    await begun.promise
    t.match(await app.shutdown.begin('a stop'), { exitCode: 0, cut: [], errors: [] })
    t.match(errors, [/rolled back/])
    t.ok(of('info').includes('sqs orders: gave 1 back that could not be finished'))
    t.strictSame(await queue.left(), { messages: 1, hidden: 0 })
  })

  t.test('fails as ever: the message stays hidden for as long as the application says', async (t) => {
    const queue = await startQueue(t)
    await queue.send(1)
    const { app, consumer, errors } = await serve(t, queue, { terminateVisibilityTimeout: 600, handleMessage: async () => { throw new Error('bad order') } })
    const failed = new Promise((resolve) => { consumer.once('processing_error', resolve) })
    consumer.start()
    await failed
    t.match(await app.shutdown.begin('a stop'), { exitCode: 0, errors: [] })
    t.match(errors, [/bad order/])
    t.strictSame(await queue.left(), { messages: 1, hidden: 1 })
  })

  t.test('that hangs is named at the deadline', async (t) => {
    const queue = await startQueue(t)
    await queue.send(1)
    const begun = deferred()
    const { app, consumer } = await serve(t, queue, { name: 'payments', handleMessage: () => { begun.resolve(); return new Promise(() => {}) } }, { stopTimeout: 2, margin: 0.5 })
    consumer.start()
    await begun.promise
    t.match(await app.shutdown.begin('a stop'), { exitCode: 1, cut: [{ kind: 'job', name: 'job sqs payments' }, { kind: 'worker', name: 'worker sqs payments, 1 active' }] })
  })
})

t.test('an endpoint that fails during the stop', async (t) => {
  /** A message is being handled when the stop begins, and then the endpoint fails for one command. */
  const stop = async (t: Test, command: string, fail: () => unknown, options: Partial<SqsConsumerOptions> = {}, after: (name: string, output: any) => unknown = () => {}) => {
    const queue = await startQueue(t)
    await queue.send(1)
    const begun = deferred()
    const end = deferred()
    const client = queue.client()
    watch(client, { before: (name) => { if (name === command) return fail() }, after })
    const handler = async <T>(result: T) => { begun.resolve(); await end.promise; return result }
    const made = await serve(t, queue, 'handleMessageBatch' in options ? { ...options, handleMessageBatch: handler } : { handleMessage: handler, ...options }, { stopTimeout: 2, margin: 0.5, abortGrace: 0.4 }, client)
    made.consumer.start()
    await begun.promise
    const stopped = made.app.shutdown.begin('a stop')
    end.resolve()
    return { ...made, report: await stopped }
  }

  t.test('a delete that fails is named: the message will be processed twice', async (t) => {
    const { report } = await stop(t, 'DeleteMessage', () => { throw new Error('AccessDenied') })
    t.match(report, { exitCode: 1, errors: [{ where: 'job sqs orders: delete after processing', message: 'AccessDenied' }] })
  })

  t.test('a delete that was on its way when the stop began is named too, but none that failed before', async (t) => {
    const queue = await startQueue(t)
    await queue.send(1)
    const client = queue.client()
    const deleting = deferred()
    const fail = deferred()
    let deletes = 0
    watch(client, {
      before: async (name) => {
        if (name !== 'DeleteMessage') return
        if (deletes++ === 0) throw new Error('early')
        deleting.resolve()
        await fail.promise
        throw new Error('AccessDenied')
      }
    })
    const { app, consumer, errors } = await serve(t, queue, { terminateVisibilityTimeout: true, handleMessage: async (message) => message }, {}, client)
    consumer.start()
    await deleting.promise
    const stopped = app.shutdown.begin('a stop')
    fail.resolve()
    t.match(await stopped, { exitCode: 1, errors: [{ where: 'job sqs orders: delete after processing', message: 'AccessDenied' }] })
    t.match(errors, [/early/, /AccessDenied/])
  })

  t.test('a delete of many that fails for some is named', async (t) => {
    const { report } = await stop(t, '', () => {}, { handleMessageBatch: async (messages) => messages }, (name, output) => {
      if (name === 'DeleteMessageBatch') output.Failed = [{ Id: '1', Code: 'InternalError', SenderFault: false }]
    })
    t.match(report, { exitCode: 1, errors: [{ message: '1 messages were processed, and not deleted' }] })
  })

  t.test('a delete that hangs is named at the deadline', async (t) => {
    const { report } = await stop(t, 'DeleteMessage', () => new Promise(() => {}))
    t.match(report, { exitCode: 1, cut: [{ name: 'worker sqs orders, 1 active' }, { name: 'job sqs orders: delete after processing' }] })
  })

  t.test('a message that cannot be given back comes back by itself', async (t) => {
    const queue = await startQueue(t)
    const polling = deferred()
    const client = queue.client()
    watch(client, {
      before: (name) => {
        if (name === 'ReceiveMessage') polling.resolve()
        if (name === 'ChangeMessageVisibility') throw new Error('ThrottlingException')
      }
    })
    const { app, consumer, of } = await serve(t, queue, { waitTimeSeconds: 1, handleMessage: async (message) => message }, {}, client)
    consumer.start()
    await polling.promise
    const stopped = app.shutdown.begin('a stop')
    await queue.send(1)
    t.match(await stopped, { exitCode: 0 })
    t.match(of('warn'), ['sqs orders: could not give a message back, so it comes back when its visibility timeout ends'])
  })
})

t.test('while serving a heartbeat reaches the queue', async (t) => {
  const queue = await startQueue(t)
  await queue.send(1)
  const beat = deferred<string>()
  const end = deferred()
  const client = queue.client()
  watch(client, { after: (name) => { if (name === 'ChangeMessageVisibility') beat.resolve(name) } })
  const { app, consumer } = await serve(t, queue, { visibilityTimeout: 30, heartbeatInterval: 1, handleMessage: async (message) => { await end.promise; return message } }, {}, client)
  consumer.start()
  t.equal(await beat.promise, 'ChangeMessageVisibility')
  end.resolve()
  await app.shutdown.begin('a stop')
  t.strictSame(await queue.left(), { messages: 0, hidden: 0 })
})

t.test('what does not fit is refused', async (t) => {
  const app = Fastify() as unknown as FastifyInstance
  await app.register(fastifyFargate)
  t.teardown(() => app.close())
  const create = (given: unknown, options: unknown) => () => createSqsConsumer(app, given as typeof libraries, options as SqsConsumerOptions)
  const code = 'FARGATE_ERR_BAD_ARGUMENT'
  t.throws(create(undefined, {}), { code, message: 'createSqsConsumer() expects { Consumer } of sqs-consumer and { ChangeMessageVisibilityCommand } of @aws-sdk/client-sqs, got undefined.' })
  t.throws(create({ Consumer }, {}), { code })
  t.throws(create({ ...libraries, Consumer: class {} }, {}), { code })
  t.throws(create(libraries, { queueUrl: 'x' }), { code, message: 'createSqsConsumer() expects an SQSClient in the option sqs, got undefined.' })
})
