import { Queue, Worker, type Job, type Processor, type WorkerOptions } from 'bullmq'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { createBullmqWorker } from '../../lib/adapters/bullmq.js'
import { fastifyFargate } from '../../lib/index.js'
import { type FargateOptions } from '../../types/index.js'
import { start } from '../support/app.js'
import { memoryLog } from '../support/log.js'
import { noRedis, startRedis } from '../support/redis.js'

function deferred () {
  let resolve!: () => void
  const promise = new Promise<void>((_resolve) => { resolve = _resolve })
  return { promise, resolve }
}

t.test('with a real Redis', { skip: noRedis }, async (t) => {
  /** A service with a worker, a queue, and nothing else on that Redis. */
  async function serve (t: Test, processor: Processor, fargate: FargateOptions = {}, options: Partial<WorkerOptions> = {}) {
    const { port } = await startRedis(t)
    const connection = { host: '127.0.0.1', port }
    const queue = new Queue('orders', { connection })
    const memory = memoryLog()
    const app = Fastify({ loggerInstance: memory.log }) as unknown as FastifyInstance
    await app.register(fastifyFargate, { stopTimeout: 20, ...fargate })
    const worker = createBullmqWorker(app, { Worker }, 'orders', processor, { connection, ...options })
    worker.on('error', () => {})
    queue.on('error', () => {})
    await app.ready()
    await Promise.all([worker.waitUntilReady(), queue.waitUntilReady()])
    t.teardown(async () => {
      void worker.close(true)
      await Promise.all([queue.disconnect(), app.close()])
    })
    return { ...memory, app, queue, worker }
  }

  t.test('jobs that run finish and are completed, and no other begins', async (t) => {
    const begun = deferred()
    const end = deferred()
    let runs = 0
    const { app, queue } = await serve(t, async () => {
      if (++runs === 2) begun.resolve()
      await end.promise
    }, {}, { concurrency: 2 })
    await queue.addBulk([1, 2, 3, 4].map((data) => ({ name: 'order', data })))
    await begun.promise
    const stopped = app.shutdown.begin('a stop')
    end.resolve()
    t.match(await stopped, { exitCode: 0, cut: [], errors: [] })
    t.match(await queue.getJobCounts(), { completed: 2, waiting: 2, active: 0, failed: 0 })
    t.equal(runs, 2)
  })

  t.test('a job that gives up at the abort mark goes back, and has not failed', async (t) => {
    const begun = deferred()
    const { app, of, queue } = await serve(t, async (_job, _token, signal) => {
      begun.resolve()
      await new Promise((resolve) => { signal!.addEventListener('abort', resolve) })
      throw new Error('rolled back')
    }, { stopTimeout: 2, margin: 0.5, abortGrace: 0.4 })
    await queue.add('order', {})
    await begun.promise
    t.match(await app.shutdown.begin('a stop'), { exitCode: 0, cut: [], errors: [] })
    t.match(await queue.getJobCounts(), { waiting: 1, active: 0, failed: 0 })
    t.ok(of('info').includes('bullmq orders: gave job 1 back, which could not be finished'))
  })

  t.test('a job that fails has failed, as ever', async (t) => {
    const begun = deferred()
    const end = deferred()
    const { app, queue } = await serve(t, async () => {
      begun.resolve()
      await end.promise
      throw new Error('bad order')
    })
    await queue.add('order', {})
    await begun.promise
    const stopped = app.shutdown.begin('a stop')
    end.resolve()
    t.match(await stopped, { exitCode: 0, errors: [] })
    t.match(await queue.getJobCounts(), { waiting: 0, active: 0, failed: 1 })
  })

  t.test('an idle worker ends at once', async (t) => {
    const { app } = await serve(t, async () => {})
    const { exitCode, durations } = await app.shutdown.begin('a stop')
    t.equal(exitCode, 0)
    t.ok(durations.totalMs < 5000, 'it does not wait for the command that it is blocked on')
  })
})

/** A Worker that hands its processor and its jobs over to the test. */
async function standIn (t: Test) {
  const made = await start(t, { deregistration: 'none' })
  const calls: unknown[] = []
  const closed = deferred()
  let guarded!: Processor
  class StandIn {
    constructor (queue: string, processor: Processor, options: object) {
      calls.push([queue, options])
      guarded = processor
    }

    async close () {
      calls.push('close')
      await closed.promise
    }

    cancelAllJobs (reason: string) { calls.push(reason) }
  }
  const create = (processor: Processor | string) => {
    createBullmqWorker(made.app, { Worker: StandIn as unknown as typeof Worker }, 'orders', processor, { connection: {} })
    return guarded
  }
  return { ...made, calls, closed, create }
}

t.test('a job that was fetched at the moment of the stop goes back', async (t) => {
  const { app, closed, create } = await standIn(t)
  let runs = 0
  const guarded = create(async () => { runs++ })
  t.equal(guarded.length, 3, 'BullMQ makes no signal for less')
  const stopped = app.shutdown.begin('a stop')
  const moved: unknown[] = []
  await t.rejects(guarded({ id: '7', name: 'order', moveToWait: async (token: string) => { moved.push(token) } } as unknown as Job, 'token'), { name: 'WaitingError' })
  closed.resolve()
  await stopped
  t.strictSame([runs, moved], [0, ['token']])
})

t.test('a connection that does not close is left at the abort mark, but not under a job', async (t) => {
  const idle = await standIn(t)
  idle.create(async () => {})
  const stopped = idle.app.shutdown.begin('a stop')
  await idle.clock.advance(25_200)
  t.match(await stopped, { exitCode: 0, durations: { totalMs: 25_200 } })
  t.strictSame(idle.of('warn'), ['bullmq orders: its connection to Redis did not close in time'])
  t.strictSame(idle.calls, [['orders', { connection: {} }], 'close', 'The service stops'])

  const busy = await standIn(t)
  const job = deferred()
  const result = busy.create(() => job.promise)({ id: '7', name: 'order' } as Job, 'token')
  const ended = busy.app.shutdown.begin('a stop')
  await busy.clock.advance(26_000)
  job.resolve()
  await result
  await busy.clock.advance(500)
  t.equal(busy.app.shutdown.state, 'closing', 'BullMQ has still to move it')
  busy.closed.resolve()
  t.match(await ended, { exitCode: 0 })
})

t.test('a processor that is a file runs elsewhere, and is handed on as it is', async (t) => {
  const { app, calls, clock, closed, create } = await standIn(t)
  t.equal(create('/srv/processor.js') as unknown, '/srv/processor.js')
  const stopped = app.shutdown.begin('a stop')
  await clock.advance(27_000)
  t.equal(app.shutdown.state, 'closing', 'it may have a job, which is told to give up')
  t.equal(calls.at(-1), 'The service stops')
  closed.resolve()
  t.match(await stopped, { exitCode: 0 })
})

t.test('what does not fit is refused', async (t) => {
  const { app } = await start(t)
  for (const library of [undefined, {}, { Worker: 'x' }]) {
    t.throws(() => createBullmqWorker(app, library as unknown as { Worker: typeof Worker }, 'orders', async () => {}, { connection: {} }), {
      code: 'FARGATE_ERR_BAD_ARGUMENT', message: 'createBullmqWorker() expects { Worker } of bullmq, got ' + (library === undefined ? 'undefined.' : 'an object.')
    })
  }
})
