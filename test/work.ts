import t from 'tap'
import { Countdown } from '../lib/countdown.js'
import { Pending } from '../lib/pending.js'
import { computeTimeline } from '../lib/timeline.js'
import { Work } from '../lib/work.js'
import { type Holder, type JobContext, type JobOptions, type StopContext, type Worker } from '../types/index.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'
import { memoryLog } from './support/log.js'

const ABORT_GRACE_MS = 2800

function make ({ listens = true } = {}) {
  const clock = new ManualClock()
  const memory = memoryLog()
  const countdown = new Countdown(clock, computeTimeline({ stopTimeout: 30, deregistrationDelay: 20, margin: 2, closeReserve: 8, abortGrace: ABORT_GRACE_MS / 1000 }))
  const pending = new Pending(clock)
  const intake = new AbortController()
  const failures: Array<[string, unknown]> = []
  const work = new Work({
    abortGraceMs: ABORT_GRACE_MS, clock, countdown, fail: (where, error) => { failures.push([where, error]) }, intake: intake.signal, log: memory.log, pending
  })
  const overdue: Array<[string, Holder]> = []
  if (listens) work.onOverdue = (why, holder) => { overdue.push([why, holder]) }
  const context: StopContext = { reason: 'SIGTERM', remaining: () => countdown.remaining(), signal: countdown.abort }
  const drain = () => {
    countdown.start()
    intake.abort(new Error('The service stops: SIGTERM'))
    work.drain(context)
  }
  return { ...memory, clock, context, countdown, drain, failures, intake, overdue, pending, work }
}

function deferred<T = void> () {
  let resolve!: (value: T) => void
  let reject!: (error: unknown) => void
  const promise = new Promise<T>((_resolve, _reject) => { resolve = _resolve; reject = _reject })
  return { promise, resolve, reject }
}

const never = () => new Promise<never>(() => {})
const names = (pending: Pending) => pending.holders().map(({ name }) => name)

/** What nobody has caught until the end of the test. */
async function uncaught (fn: () => Promise<void>): Promise<unknown[]> {
  const seen: unknown[] = []
  const listener = (error: unknown) => { seen.push(error) }
  process.on('unhandledRejection', listener)
  await fn()
  await turnOfEventLoop()
  await turnOfEventLoop()
  process.off('unhandledRejection', listener)
  return seen
}

t.test('run', async (t) => {
  t.test('begins the job at once, holds until it ends, and resolves as it does', async (t) => {
    const { clock, pending, work } = make()
    const job = deferred<number>()
    let hasBegun = false
    const result = work.run('nightly', () => { hasBegun = true; return job.promise })
    t.equal(hasBegun, true)
    clock.skip(1500)
    t.strictSame(pending.holders(), [{ kind: 'job', name: 'job nightly', ageMs: 1500 }])
    job.resolve(7)
    t.equal(await result, 7)
    t.equal(pending.size, 0)
    t.equal(await work.run('sync', () => 3), 3)
    t.equal(clock.pending, 0)
  })

  t.test('any number of jobs may have the same name', async (t) => {
    const { pending, work } = make()
    void work.run('order', never)
    void work.run('order', never)
    t.strictSame(names(pending), ['job order', 'job order'])
  })

  t.test('a job is told of draining and of the abort mark, and how much time is left', async (t) => {
    const { clock, drain, work } = make()
    let context!: JobContext
    void work.run('a', (given) => { context = given; return never() })
    t.strictSame([context.signal.aborted, context.abortSignal.aborted, context.remaining()], [false, false, Infinity])
    drain()
    t.strictSame([context.signal.aborted, context.abortSignal.aborted, context.remaining()], [true, false, 28_000])
    await clock.advance(25_199)
    t.equal(context.abortSignal.aborted, false)
    await clock.advance(1)
    t.equal(context.abortSignal.aborted, true)
  })

  t.test('before the stop a job that throws or rejects is its caller\'s business', async (t) => {
    const { failures, lines, pending, work } = make()
    await t.rejects(work.run('a', () => { throw new Error('sync') }), { message: 'sync' })
    await t.rejects(work.run('a', async () => { throw new Error('async') }), { message: 'async' })
    t.strictSame([failures, lines, pending.size], [[], [], 0])
    t.match(await uncaught(async () => { void work.run('a', async () => { throw new Error('nobody looks') }) }), [{ message: 'nobody looks' }], 'as with any promise')
  })

  t.test('one that fails during the stop is reported, whoever looks at it', async (t) => {
    const { drain, failures, work } = make()
    const looked = deferred()
    const alone = deferred()
    const result = work.run('looked at', () => looked.promise)
    t.strictSame(await uncaught(async () => {
      void work.run('alone', () => alone.promise)
      drain()
      alone.reject(new Error('one'))
      await turnOfEventLoop()
    }), [])
    looked.reject(new Error('two'))
    await t.rejects(result, { message: 'two' })
    t.match(failures, [['job alone', { message: 'one' }], ['job looked at', { message: 'two' }]])
  })

  t.test('is refused once draining has begun, also for a job that starts another', async (t) => {
    const { drain, failures, pending, work } = make()
    const told = deferred()
    let hasBegun = false
    const outer = work.run('outer', async () => {
      await told.promise
      return await work.run('inner', () => { hasBegun = true }).then(() => 'begun', ({ code, message }) => [code, message])
    })
    drain()
    told.resolve()
    t.strictSame(await outer, ['FARGATE_ERR_DRAINING', 'The job inner was not begun, as the service is stopping. Leave it to another task: put the message back, or do not take it in.'])
    t.equal(hasBegun, false)
    t.strictSame(await uncaught(async () => { void work.run('a', () => {}) }), [], 'nobody has to look at a refusal: nothing was begun')
    t.strictSame([failures, pending.size], [[], 0])
  })

  t.test('what only seems to be a promise settles once, or fails', async (t) => {
    const { failures, pending, work } = make()
    const twice = { then (resolve: (value: number) => void, reject: (error: Error) => void) { resolve(1); resolve(2); reject(new Error('x')) } }
    t.equal(await work.run('twice', () => twice as PromiseLike<number>), 1)
    await t.rejects(work.run('throws', () => ({ then () { throw new Error('then') } }) as unknown as PromiseLike<void>), { message: 'then' })
    t.strictSame([pending.size, failures], [0, []])
  })

  t.test('what does not fit is refused', async (t) => {
    const { work } = make()
    const refused = (name: unknown, fn: unknown, options?: unknown) => work.run(name as string, fn as () => void, options as JobOptions)
    const code = 'FARGATE_ERR_BAD_ARGUMENT'
    const fn = () => {}
    await t.rejects(refused('', fn), { code, message: 'fastify.shutdown.run() expects a name, got "".' })
    await t.rejects(refused(fn, fn), { code, message: 'fastify.shutdown.run() expects a name, got a function.' })
    await t.rejects(refused('a', Promise.resolve()), { code, message: 'fastify.shutdown.run() expects a function, got an object.' })
    await t.rejects(refused('a', fn, { timeuot: 1 }), { code, message: 'fastify.shutdown.run() expects nothing but timeout, got timeuot.' })
    for (const timeout of [0, 0.009, 3601, NaN, Infinity, '5']) {
      await t.rejects(refused('a', fn, { timeout }), { code, message: /^fastify\.shutdown\.run\(\) expects a timeout of 0\.01-3600 s, got / })
    }
    for (const timeout of [0.01, 3600, undefined]) await t.resolves(refused('a', fn, { timeout }))
  })
})

t.test('a timeout of a job\'s own', async (t) => {
  t.test('runs from the stop signal, ends the wait, and names the job', async (t) => {
    const { clock, drain, overdue, pending, work } = make()
    let context!: JobContext
    void work.run('nightly', (given) => { context = given; return never() }, { timeout: 5 })
    await clock.advance(60_000)
    t.equal(context.abortSignal.aborted, false, 'while serving a job may take as long as it likes')
    drain()
    await clock.advance(5000 - ABORT_GRACE_MS - 1)
    t.equal(context.abortSignal.aborted, false)
    await clock.advance(1)
    t.equal(context.abortSignal.aborted, true, 'it is told earlier than the others')
    t.match(context.abortSignal.reason, { message: 'The timeout of job nightly is near' })
    await clock.advance(ABORT_GRACE_MS - 1)
    t.strictSame([pending.size, overdue.length], [1, 0])
    await clock.advance(1)
    t.equal(pending.size, 0)
    t.strictSame(overdue, [['job nightly has its timeout of 5 s behind it', { kind: 'job', name: 'job nightly', ageMs: 65_000 }]])
  })

  t.test('need not be listened to', async (t) => {
    const { clock, drain, pending, work } = make({ listens: false })
    void work.run('nightly', never, { timeout: 5 })
    drain()
    await clock.advance(5000)
    t.equal(pending.size, 0)
  })

  t.test('of a job that has ended before the stop never begins to run', async (t) => {
    const { clock, countdown, drain, overdue, work } = make()
    await work.run('ended', () => 1, { timeout: 5 })
    await t.rejects(work.run('failed', () => { throw new Error('x') }, { timeout: 5 }), { message: 'x' })
    work.waitUntil('settled', Promise.resolve(), { timeout: 5 })
    await clock.settle()
    drain()
    countdown.stop()
    t.equal(clock.pending, 0)
    await clock.advance(10_000)
    t.strictSame(overdue, [])
  })

  t.test('that is shorter than the abort grace leaves no time: the job is told at once', async (t) => {
    const { clock, drain, overdue, work } = make()
    let signal!: AbortSignal
    void work.run('a', ({ abortSignal }) => { signal = abortSignal; return never() }, { timeout: 1 })
    drain()
    await clock.advance(0)
    t.equal(signal.aborted, true)
    await clock.advance(999)
    t.strictSame(overdue, [])
    await clock.advance(1)
    t.equal(overdue.length, 1)
  })

  t.test('that is over: the job is not waited for any more, but a failure of it is still one', async (t) => {
    const { clock, drain, failures, overdue, pending, work } = make()
    const failing = deferred()
    const ending = deferred()
    t.strictSame(await uncaught(async () => {
      void work.run('failing', () => failing.promise, { timeout: 5 })
      void work.run('ending', () => ending.promise, { timeout: 5 })
      void work.run('other', never)
      drain()
      await clock.advance(5000)
      failing.reject(new Error('too late'))
      ending.resolve()
    }), [])
    t.strictSame(names(pending), ['job other'])
    t.equal(overdue.length, 2, 'each is named once')
    t.match(failures, [['job failing', { message: 'too late' }]])
    t.equal(failures.length, 1)
  })

  t.test('that is long does not keep the job from hearing of the abort mark', async (t) => {
    const { clock, countdown, drain, work } = make()
    let signal!: AbortSignal
    void work.run('a', ({ abortSignal }) => { signal = abortSignal; return never() }, { timeout: 100 })
    drain()
    await clock.advance(25_199)
    t.equal(signal.aborted, false)
    await clock.advance(1)
    t.equal(signal.aborted, true)
    t.equal(signal.reason, countdown.abort.reason)
  })

  t.test('is forgotten when the job ends', async (t) => {
    const { clock, countdown, drain, overdue, work } = make()
    const job = deferred()
    const result = work.run('a', () => job.promise, { timeout: 5 })
    drain()
    countdown.stop()
    job.resolve()
    await result
    t.equal(clock.pending, 0)
    await clock.advance(10_000)
    t.strictSame(overdue, [])
  })

  t.test('does not outlast the abort mark, and leaves no timer', async (t) => {
    const { clock, countdown, drain, work } = make()
    let signal!: AbortSignal
    void work.run('a', ({ abortSignal }) => { signal = abortSignal; return never() }, { timeout: 100 })
    void work.run('b', never)
    drain()
    countdown.hasten()
    t.equal(signal.aborted, true)
    countdown.stop()
    work.stop()
    t.equal(clock.pending, 0)
    work.waitUntil('late', never(), { timeout: 1 })
    t.equal(clock.pending, 0)
  })
})

t.test('waitUntil', async (t) => {
  t.test('holds until the promise settles, also while draining', async (t) => {
    const { drain, failures, lines, pending, work } = make()
    const first = deferred()
    const second = deferred()
    work.waitUntil('audit', first.promise)
    drain()
    work.waitUntil('mail', second.promise)
    t.strictSame(names(pending), ['job audit', 'job mail'])
    first.resolve()
    second.resolve()
    await turnOfEventLoop()
    t.strictSame([pending.size, failures, lines], [0, [], []])
  })

  t.test('a rejection is logged, and during the stop it is a failure', async (t) => {
    const { drain, failures, lines, work } = make()
    const late = deferred()
    work.waitUntil('late', late.promise)
    t.strictSame(await uncaught(async () => {
      work.waitUntil('early', Promise.reject(new Error('one')))
      await turnOfEventLoop()
      drain()
      late.reject(new Error('two'))
    }), [])
    t.match(lines, [{ level: 'error', msg: 'job early has failed', err: { message: 'one' } }])
    t.match(failures, [['job late', { message: 'two' }]])
  })

  t.test('what only seems to be a promise settles once, or fails', async (t) => {
    const { drain, failures, pending, work } = make()
    drain()
    work.waitUntil('twice', { then: (resolve: () => void, reject: (error: Error) => void) => { resolve(); resolve(); reject(new Error('x')) } } as PromiseLike<void>)
    work.waitUntil('throws', { then () { throw new Error('then') } } as unknown as PromiseLike<void>)
    await turnOfEventLoop()
    t.equal(pending.size, 0)
    t.match(failures, [['job throws', { message: 'then' }]])
  })

  t.test('a timeout runs from now on when draining has begun already', async (t) => {
    const { clock, drain, overdue, work } = make()
    drain()
    await clock.advance(1000)
    work.waitUntil('mail', never(), { timeout: 3 })
    await clock.advance(2999)
    t.strictSame(overdue, [])
    await clock.advance(1)
    t.match(overdue, [['job mail has its timeout of 3 s behind it', { ageMs: 3000 }]])
  })

  t.test('after the end of the stop it says that nobody waits', async (t) => {
    const { drain, of, work } = make()
    drain()
    work.stop()
    work.waitUntil('late', never())
    t.strictSame(of('warn'), ['job late came after the end of the stop: nobody waits for it'])
  })

  t.test('what does not fit is refused', async (t) => {
    const { pending, work } = make()
    const code = 'FARGATE_ERR_BAD_ARGUMENT'
    for (const value of [undefined, null, () => {}, {}]) {
      t.throws(() => { work.waitUntil('a', value as unknown as Promise<void>) }, { code, message: /^fastify\.shutdown\.waitUntil\(\) expects a promise, got / })
    }
    t.throws(() => { work.waitUntil('a', never(), { timeout: 0 }) }, { code, message: 'fastify.shutdown.waitUntil() expects a timeout of 0.01-3600 s, got 0.' })
    t.throws(() => { work.waitUntil('a', never(), { after: 1 } as JobOptions) }, { code, message: 'fastify.shutdown.waitUntil() expects nothing but timeout, got after.' })
    t.equal(pending.size, 0)
    t.throws(() => { work.waitUntil('', never()) }, { code, message: 'fastify.shutdown.waitUntil() expects a name, got "".' })
  })
})

t.test('workers', async (t) => {
  const add = (made: ReturnType<typeof make>, worker: Partial<Worker>) => { made.work.addWorker({ name: 'orders', stop () {}, ...worker }) }

  t.test('are stopped when draining begins, side by side, once, and then drained', async (t) => {
    const made = make()
    const { context, drain, pending, work } = made
    const calls: unknown[] = []
    const stopped = deferred()
    const drained = deferred()
    add(made, {
      stop: (given) => { calls.push(['stop', given]); return stopped.promise },
      drain: (given) => { calls.push(['drain', given]); return drained.promise }
    })
    add(made, { name: 'mails', stop () { calls.push('other') } })
    t.equal(pending.size, 0)
    drain()
    work.drain(context)
    t.match(calls, [['stop', context], 'other'])
    await turnOfEventLoop()
    t.strictSame(names(pending), ['worker orders'])
    stopped.resolve()
    await turnOfEventLoop()
    t.match(calls.slice(2), [['drain', context]])
    drained.resolve()
    await turnOfEventLoop()
    t.strictSame([calls.length, pending.size, made.failures], [3, 0, []])
  })

  t.test('that cannot tell when they have ended are asked, twenty times a second', async (t) => {
    const made = make()
    let active = 2
    let asked = 0
    add(made, { active: () => { asked++; return active } })
    made.drain()
    await made.clock.advance(0)
    t.strictSame(names(made.pending), ['worker orders, 2 active'])
    asked = 0
    await made.clock.advance(49)
    t.equal(asked, 0)
    await made.clock.advance(1)
    t.equal(asked, 1)
    active = 0
    await made.clock.advance(50)
    t.equal(made.pending.size, 0)
    made.countdown.stop()
    t.equal(made.clock.pending, 0)
  })

  t.test('one whose stop, drain or active fails is named, and the rest is done', async (t) => {
    const made = make()
    const calls: string[] = []
    add(made, { stop () { throw new Error('one') }, drain: async () => { calls.push('drain'); throw new Error('two') }, active: () => { throw new Error('three') } })
    add(made, { name: 'mails', stop: () => { calls.push('mails') } })
    made.drain()
    t.equal(names(made.pending)[0], 'worker orders', 'also while it is asked for its name')
    await made.clock.settle()
    t.strictSame(calls, ['mails', 'drain'])
    t.match(made.failures, [
      ['worker orders: stop', { message: 'one' }], ['worker orders: drain', { message: 'two' }], ['worker orders: active', { message: 'three' }]
    ])
    t.equal(made.pending.size, 0)
  })

  t.test('one whose stop hangs stays a holder, and is not asked for ever', async (t) => {
    const made = make()
    add(made, { stop: never })
    add(made, { name: 'busy', active: () => 1 })
    made.drain()
    await made.clock.advance(28_000)
    t.strictSame(names(made.pending), ['worker orders', 'worker busy, 1 active'])
    made.work.stop()
    await made.clock.settle()
    t.equal(made.clock.pending, 0)
  })

  t.test('one whose stop rejects is drained all the same, and a drain that throws is named', async (t) => {
    const made = make()
    add(made, { stop: async () => { throw new Error('one') }, drain () { throw new Error('two') }, active: () => 1 })
    t.strictSame(await uncaught(async () => { made.drain(); await made.clock.settle() }), [])
    t.match(made.failures, [['worker orders: stop', { message: 'one' }], ['worker orders: drain', { message: 'two' }]])
    t.equal(made.failures.length, 2)
    t.strictSame(names(made.pending), ['worker orders, 1 active'], 'what it has is still waited for')
  })

  t.test('one whose drain hangs is not asked before, and stays a holder', async (t) => {
    const made = make()
    add(made, { drain: never, active: () => 0 })
    made.drain()
    made.countdown.stop()
    await made.clock.settle()
    t.equal(made.clock.pending, 0)
    t.strictSame(names(made.pending), ['worker orders'])
  })

  t.test('one that throws later, while it is asked, is named and left', async (t) => {
    const made = make()
    let isBroken = false
    add(made, { active: () => { if (isBroken) throw new Error('gone'); return 1 } })
    made.drain()
    await made.clock.advance(100)
    isBroken = true
    await made.clock.advance(50)
    t.match(made.failures, [['worker orders: active', { message: 'gone' }]])
    t.equal(made.pending.size, 0)
  })

  t.test('an instance of a class is called as one', async (t) => {
    class Consumer implements Worker {
      name = 'orders'
      readonly #calls: string[] = []
      stop () { this.#calls.push('stop') }
      drain () { this.#calls.push('drain') }
      active () { this.#calls.push('active'); return 0 }
      get calls () { return this.#calls }
    }
    const { clock, drain, failures, work } = make()
    const consumer = new Consumer()
    work.addWorker(consumer)
    drain()
    await clock.settle()
    t.strictSame([consumer.calls, failures], [['stop', 'drain', 'active'], []])
  })

  t.test('two of one name are told apart', async (t) => {
    const made = make()
    add(made, { stop: never })
    add(made, { stop: never })
    add(made, { name: 'mails', stop: never })
    made.drain()
    t.strictSame(names(made.pending), ['worker orders', 'worker orders #2', 'worker mails'])
  })

  t.test('one that is added while draining is stopped at once', async (t) => {
    const made = make()
    made.drain()
    let given: unknown
    add(made, { stop: never })
    add(made, { stop: (context) => { given = context } })
    t.equal(given, made.context)
    t.strictSame(names(made.pending), ['worker orders', 'worker orders #2'])
  })

  t.test('one that is added after the end of the stop is stopped, and leaves no timer', async (t) => {
    const made = make()
    made.drain()
    made.countdown.stop()
    made.work.stop()
    let isStopped = false
    add(made, { stop () { isStopped = true }, active: () => 1 })
    await made.clock.settle()
    t.strictSame([isStopped, made.pending.size, made.clock.pending], [true, 0, 0])
  })

  t.test('what does not fit is refused', async (t) => {
    const { work } = make()
    const code = 'FARGATE_ERR_BAD_ARGUMENT'
    const stop = () => {}
    for (const worker of [undefined, null, 'orders', {}, { name: '', stop }, { name: 1, stop }, { name: 'a' }, { name: 'a', stop: 1 }, { name: 'a', stop, drain: 1 }, { name: 'a', stop, active: 3 }]) {
      t.throws(() => { work.addWorker(worker as unknown as Worker) }, { code, message: /^fastify\.shutdown\.addWorker\(\) expects \{ name: string, stop: function, drain: function, active: function \}, got / })
    }
    t.throws(() => { work.addWorker({ name: 'a', stop, dran: stop } as unknown as Worker) }, { code, message: 'fastify.shutdown.addWorker() expects nothing but name, stop, drain, active, got dran.' })
  })
})

t.test('what is told is told once', async (t) => {
  t.test('a job that failed just before the stop, and that nobody looks at, is uncaught as ever', async (t) => {
    const { drain, failures, work } = make()
    t.match(await uncaught(async () => {
      void work.run('flush', () => { throw new Error('lost') })
      drain()
    }), [{ message: 'lost' }])
    t.strictSame(failures, [])
  })

  t.test('a job that fails after the end of the stop is no part of its report', async (t) => {
    const { drain, failures, of, work } = make()
    const ran = deferred()
    const waited = deferred()
    void work.run('ran', () => ran.promise)
    work.waitUntil('waited', waited.promise)
    drain()
    work.stop()
    t.strictSame(await uncaught(async () => {
      ran.reject(new Error('one'))
      waited.reject(new Error('two'))
      await turnOfEventLoop()
    }), [])
    t.strictSame(failures, [])
    t.strictSame(of('error'), ['job ran has failed, after the end of the stop', 'job waited has failed, after the end of the stop'])
  })

  t.test('nor is a worker that fails then', async (t) => {
    const { drain, failures, of, work } = make()
    const stop = deferred()
    work.addWorker({ name: 'orders', stop: () => stop.promise })
    drain()
    work.stop()
    stop.reject(new Error('late'))
    await turnOfEventLoop()
    t.strictSame(failures, [])
    t.strictSame(of('error'), ['worker orders: stop has failed, after the end of the stop'])
  })

  t.test('a job that was given up already has no timeout any more', async (t) => {
    const { clock, drain, overdue, pending, work } = make()
    void work.run('nightly', never, { timeout: 5 })
    drain()
    t.strictSame(pending.giveUp().map(({ name }) => name), ['job nightly'])
    t.equal(pending.size, 0)
    await clock.advance(5000)
    t.strictSame(overdue, [])
  })

  t.test('a worker that is added twice is stopped once', async (t) => {
    const { drain, work } = make()
    let stops = 0
    const worker = { name: 'orders', stop () { stops++ } }
    work.addWorker(worker)
    work.addWorker(worker)
    drain()
    t.equal(stops, 1)
  })

  t.test('options that are none are refused', async (t) => {
    const { work } = make()
    for (const options of [null, 5, true, [], 'x']) {
      await t.rejects(work.run('a', () => {}, options as unknown as JobOptions), { code: 'FARGATE_ERR_BAD_ARGUMENT', message: /expects options like \{ timeout \}, got / })
    }
  })

  t.test('an instance of a class may have fields of its own', async (t) => {
    class Poller {
      name = 'orders'
      queue = []
      stop () {}
    }
    t.doesNotThrow(() => { make().work.addWorker(new Poller()) })
  })
})
