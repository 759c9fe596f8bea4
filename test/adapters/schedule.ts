import Fastify, { type FastifyInstance } from 'fastify'
import schedule from '@fastify/schedule'
import t, { type Test } from 'tap'
import { AsyncTask, CronJob, LongIntervalJob, SimpleIntervalJob, Task, ToadScheduler } from 'toad-scheduler'
import { addSchedule } from '../../lib/adapters/schedule.js'
import { fastifyFargate } from '../../lib/index.js'
import { type JobContext } from '../../types/index.js'
import { listen as listenApp, start as startApp } from '../support/app.js'

const DEADLINE_MS = 28_000
const ABORT_MS = 25_200
/** No timer of it fires while the test runs. */
const RARELY = { days: 20 }
const AT_ONCE = { ...RARELY, runImmediately: true }

/** A service with a scheduler of its own, and a pool that is open until it closes. */
async function start (t: Test, before: (scheduler: ToadScheduler, app: FastifyInstance) => unknown = () => {}) {
  const scheduler = new ToadScheduler()
  const pool = { isOpen: true }
  const made = await startApp(t, {}, {
    build: async (app) => {
      app.addHook('onClose', async () => { pool.isOpen = false })
      await before(scheduler, app)
      addSchedule(app, { scheduler })
    }
  })
  t.teardown(() => { scheduler.stop() })
  const report = () => made.lines.findLast(({ report }) => report !== undefined)?.['report']
  return { ...made, scheduler, pool, report }
}

/** A handler that lasts until the test ends one of its runs. */
function manual () {
  const calls: unknown[][] = []
  const runs: Array<{ end: () => void, fail: (error: Error) => void }> = []
  const handler = (...args: unknown[]) => {
    calls.push(args)
    return new Promise<void>((resolve, reject) => { runs.push({ end: resolve, fail: reject }) })
  }
  return { calls, handler, runs }
}

const asyncTask = (id: string, { handler }: { handler: (...args: unknown[]) => Promise<void> }) => new AsyncTask(id, handler)
const task = (id: string, { handler }: { handler: (...args: unknown[]) => unknown }, onError?: (error: Error) => void) =>
  new Task(id, handler as () => void, onError as (error: Error) => void)
/** As its timer would. */
const trigger = (job: CronJob) => { void (job as unknown as { cronInstance: { trigger: () => Promise<void> } }).cronInstance.trigger() }

const tasks = { AsyncTask: asyncTask, 'Task with an async handler': task }
const kinds = {
  'a SimpleIntervalJob': (scheduler: ToadScheduler, task: Task | AsyncTask, options: object) => { scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, task, options)) },
  'a LongIntervalJob': (scheduler: ToadScheduler, task: Task | AsyncTask, options: object) => { scheduler.addLongIntervalJob(new LongIntervalJob(AT_ONCE, task, options)) },
  'a LongIntervalJob beyond the limit of timers': (scheduler: ToadScheduler, task: Task | AsyncTask, options: object) => {
    scheduler.addLongIntervalJob(new LongIntervalJob({ days: 60, runImmediately: true }, task, options))
  },
  'a CronJob': (scheduler: ToadScheduler, task: Task | AsyncTask, options: object) => {
    const job = new CronJob({ cronExpression: '0 0 29 2 *' }, task, options)
    scheduler.addCronJob(job)
    trigger(job)
  }
}

for (const [kind, add] of Object.entries(kinds)) {
  for (const [what, make] of Object.entries(tasks)) {
    for (const options of [{}, { id: 'the job' }]) {
      t.test(`${kind} (${what}, ${'id' in options ? 'with' : 'without'} id) is awaited before the pool closes`, async (t) => {
        const work = manual()
        const { clock, host, pool, report, scheduler } = await start(t)
        add(scheduler, make('the task', work), options)
        t.match(work.calls, [['the task', 'id' in options ? 'the job' : undefined, { signal: AbortSignal, abortSignal: AbortSignal, remaining: Function }]])
        host.emit('SIGTERM')
        await clock.advance(10_000)
        t.equal(pool.isOpen, true)
        t.strictSame(host.exits, [])
        work.runs[0]!.end()
        await clock.advance(1000)
        t.equal(pool.isOpen, false)
        t.equal(host.exitCode, 0)
        t.match(report(), { exitCode: 0, cut: [], errors: [] })
        t.equal(work.runs.length, 1)
      })

      t.test(`${kind} (${what}, ${'id' in options ? 'with' : 'without'} id) that hangs is named at the deadline`, async (t) => {
        const work = manual()
        const { clock, host, report, scheduler } = await start(t)
        add(scheduler, make('the task', work), options)
        host.emit('SIGTERM')
        await clock.advance(DEADLINE_MS - 1)
        t.strictSame(host.exits, [])
        await clock.advance(1000)
        t.equal(host.exitCode, 1)
        t.match(report(), { exitCode: 1, cut: [{ kind: 'job', name: 'id' in options ? 'job the job' : 'job the task' }], errors: [] })
      })
    }
  }
}

t.test('jobs that were there before are watched too, listed or not, and a task of several jobs once', async (t) => {
  const work = manual()
  const shared = asyncTask('shared', work)
  const listed = new SimpleIntervalJob(RARELY, shared, { id: 'listed' })
  const cron = new CronJob({ cronExpression: '0 0 29 2 *' }, asyncTask('cron', work))
  const { clock, host, pool, scheduler, report } = await start(t, (scheduler) => {
    scheduler.addSimpleIntervalJob(listed)
    scheduler.addSimpleIntervalJob(new SimpleIntervalJob(RARELY, shared))
    scheduler.addCronJob(cron)
  })
  scheduler.addLongIntervalJob(new LongIntervalJob(RARELY, shared))
  void listed.executeAsync()
  trigger(cron)
  t.equal(work.runs.length, 2)
  host.emit('SIGTERM')
  await clock.advance(5000)
  t.equal(pool.isOpen, true)
  work.runs[0]!.end()
  await clock.advance(1000)
  t.equal(pool.isOpen, true)
  await clock.advance(DEADLINE_MS)
  t.strictSame(report().cut.map(({ name }: { name: string }) => name), ['job cron'], 'and neither of them twice')
})

t.test('runs that overlap are all awaited', async (t) => {
  const work = manual()
  const { clock, host, pool, scheduler } = await start(t)
  const job = new SimpleIntervalJob(AT_ONCE, asyncTask('overlapping', work), { preventOverrun: false })
  scheduler.addSimpleIntervalJob(job)
  void job.executeAsync()
  t.equal(work.runs.length, 2)
  host.emit('SIGTERM')
  for (const { end } of work.runs) {
    await clock.advance(1000)
    t.equal(pool.isOpen, true)
    end()
  }
  await clock.advance(1000)
  t.equal(pool.isOpen, false)
  t.equal(host.exitCode, 0)
})

t.test('while it serves, the scheduler is as it was', async (t) => {
  const { scheduler, lines } = await start(t)
  const failures: string[] = []
  const onError = (error: Error) => { failures.push(error.message) }
  const results: unknown[] = []
  const sync = new SimpleIntervalJob(AT_ONCE, new Task('sync', (taskId, jobId) => { results.push([taskId, jobId]) }), { id: 'a sync one' })
  scheduler.addSimpleIntervalJob(sync)
  t.strictSame(results, [['sync', 'a sync one']])
  t.equal(scheduler.getById('a sync one'), sync)
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, new Task('sync throws', () => { throw new Error('sync') }, onError)))
  const job = new SimpleIntervalJob(RARELY, new AsyncTask('async throws', async () => { throw new Error('async') }, onError))
  scheduler.addSimpleIntervalJob(job)
  await job.executeAsync()
  t.strictSame(failures, ['sync', 'async'])
  t.notOk(lines.some(({ level }) => level === 'error'), 'the error handlers have it')
  t.throws(() => { scheduler.addSimpleIntervalJob(sync) }, { message: 'Job with an id a sync one is already registered.' })
  t.equal((sync.getStatus()), 'running')

  // Nobody else would say so.
  const work = manual()
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, task('sync rejects', work, onError)))
  work.runs[0]!.fail(new Error('later'))
  await new Promise((resolve) => { setImmediate(resolve) })
  t.match(lines.filter(({ level }) => level === 'error'), [{ msg: 'job sync rejects has failed', err: { message: 'later' } }])
})

t.test('when draining begins timers stop, and no run begins in any other way', async (t) => {
  const { clock, host, scheduler, pool } = await start(t)
  const holder = manual()
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, asyncTask('holder', holder)))
  let runs = 0
  const count = async () => { runs++ }
  const simple = new SimpleIntervalJob(RARELY, new AsyncTask('simple', count), { id: 'simple' })
  const sync = new SimpleIntervalJob(AT_ONCE, new Task('sync', () => { runs++ }), { id: 'sync' })
  const cron = new CronJob({ cronExpression: '0 0 29 2 *' }, new AsyncTask('cron', count), { id: 'cron' })
  scheduler.addSimpleIntervalJob(simple)
  scheduler.addSimpleIntervalJob(sync)
  scheduler.addCronJob(cron)
  t.equal(runs, 1)
  host.emit('SIGTERM')
  t.strictSame(scheduler.getAllJobs().map((job) => job.getStatus()), ['stopped', 'stopped', 'stopped'])
  await simple.executeAsync()
  await sync.executeAsync()
  scheduler.startById('sync')
  scheduler.startById('cron')
  trigger(cron)
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, new AsyncTask('late', count)))
  scheduler.addLongIntervalJob(new LongIntervalJob(AT_ONCE, new Task('late sync', () => { runs++ })))
  await clock.advance(1000)
  t.equal(runs, 1)
  t.equal(pool.isOpen, true)
  holder.runs[0]!.end()
  await clock.advance(1000)
  t.equal(host.exitCode, 0)
})

t.test('a job that fails during the stop makes the exit code 1, and its error handler is called', async (t) => {
  const { clock, host, report, scheduler, pool } = await start(t)
  const failures: string[] = []
  const work = manual()
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, new AsyncTask('async', work.handler, (error) => { failures.push(error.message) })))
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, task('sync', work), { id: 'named' }))
  host.emit('SIGTERM')
  await clock.advance(1000)
  work.runs[0]!.fail(new Error('the first'))
  await clock.advance(1000)
  t.equal(pool.isOpen, true)
  work.runs[1]!.fail(new Error('the second'))
  await clock.advance(1000)
  t.strictSame(failures, ['the first'])
  t.equal(host.exitCode, 1)
  t.strictSame(report().errors, [{ where: 'job async', message: 'the first' }, { where: 'job named', message: 'the second' }])
  t.strictSame(report().cut, [])
})

t.test('a handler is told when draining begins, and at the abort mark', async (t) => {
  const { clock, host, scheduler } = await start(t)
  const work = manual()
  for (const make of Object.values(tasks)) scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, make('the task', work)))
  const contexts = work.calls.map(([, , context]) => context as JobContext)
  const seen = () => contexts.map(({ signal, abortSignal, remaining }) => [signal.aborted, abortSignal.aborted, remaining()])
  t.strictSame(seen(), [[false, false, Infinity], [false, false, Infinity]])
  host.emit('SIGTERM')
  t.strictSame(seen(), [[true, false, DEADLINE_MS], [true, false, DEADLINE_MS]])
  await clock.advance(ABORT_MS)
  t.strictSame(seen(), [[true, true, DEADLINE_MS - ABORT_MS], [true, true, DEADLINE_MS - ABORT_MS]])
  for (const { end } of work.runs) end()
  await clock.advance(1000)
  t.equal(host.exitCode, 0)
})

t.test('the scheduler of @fastify/schedule is taken when there is no other, and a worker that serves nothing closes at once', async (t) => {
  const work = manual()
  const { app, clock, host } = await listenApp(t, {}, {
    build: async (app) => {
      await app.register(schedule)
      addSchedule(app)
    }
  })
  const { scheduler } = app as unknown as { scheduler: ToadScheduler }
  scheduler.addSimpleIntervalJob(new SimpleIntervalJob(AT_ONCE, asyncTask('the task', work), { id: 'the job' }))
  host.emit('SIGTERM')
  await clock.advance(100)
  t.equal(app.shutdown.state, 'closing')
  t.equal(scheduler.getById('the job').getStatus(), 'stopped')
  const ended = app.shutdown.begin('the same stop')
  work.runs[0]!.end()
  t.match(await ended, { reason: 'SIGTERM', exitCode: 0, drainEnded: 'nothing is served here but the health routes', cut: [], errors: [] })
})

t.test('without a scheduler it is refused', async (t) => {
  const app = Fastify() as unknown as FastifyInstance
  await app.register(fastifyFargate)
  t.teardown(() => app.close())
  const message = 'addSchedule() expects a scheduler of toad-scheduler, or @fastify/schedule registered before, got undefined.'
  t.throws(() => { addSchedule(app) }, { code: 'FARGATE_ERR_BAD_ARGUMENT', message })
  for (const scheduler of [{}, 'toad', () => {}]) {
    t.throws(() => { addSchedule(app, { scheduler: scheduler as unknown as ToadScheduler }) }, { code: 'FARGATE_ERR_BAD_ARGUMENT' })
  }
})

t.test('ids are a matter of taste: a job without any has a name all the same', async (t) => {
  const { app, clock, scheduler } = await start(t)
  for (const [task, id] of [['', undefined], ['task', ''], ['task', 5]] as Array<[string, string | undefined]>) {
    scheduler.addSimpleIntervalJob(new SimpleIntervalJob({ days: 1, runImmediately: true }, new AsyncTask(task, () => new Promise(() => {}), () => {}), { ...id !== undefined && { id } }))
  }
  const stopped = app.shutdown.begin('a stop')
  await clock.advance(28_500)
  t.match((await stopped).cut.map(({ name }) => name), ['job task', 'job task', 'job 5'])
})
