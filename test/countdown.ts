import { getEventListeners } from 'node:events'
import t from 'tap'
import { Countdown, settledBefore } from '../lib/countdown.js'
import { computeTimeline } from '../lib/timeline.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'

const timeline = computeTimeline({ stopTimeout: 30, deregistrationDelay: 20, margin: 2, closeReserve: 8, abortGrace: 3 })

function countdown () {
  const clock = new ManualClock()
  const made = new Countdown(clock, timeline)
  const reached = () => (['drainLimit', 'abort', 'deadline'] as const).filter((mark) => made[mark].aborted)
  return { clock, made, reached }
}

t.test('before the stop nothing runs', async (t) => {
  const { clock, made, reached } = countdown()
  await clock.advance(100_000)
  t.equal(made.startedAt, undefined)
  t.equal(made.elapsed(), 0)
  t.equal(made.remaining(), Infinity)
  t.strictSame(reached(), [])
  t.equal(clock.pending, 0)
})

t.test('each mark is reached at its own time', async (t) => {
  const { clock, made, reached } = countdown()
  made.start()
  t.equal(made.startedAt, clock.now())
  await clock.advance(19_999)
  t.strictSame(reached(), [])
  await clock.advance(1)
  t.strictSame(reached(), ['drainLimit'])
  await clock.advance(4999)
  t.strictSame(reached(), ['drainLimit'])
  await clock.advance(1)
  t.strictSame(reached(), ['drainLimit', 'abort'])
  t.equal(made.elapsed(), 25_000)
  t.equal(made.remaining(), 3000)
  await clock.advance(2999)
  t.strictSame(reached(), ['drainLimit', 'abort'])
  await clock.advance(1)
  t.strictSame(reached(), ['drainLimit', 'abort', 'deadline'])
  t.equal(made.remaining(), 0)
  t.equal(clock.pending, 0)
})

t.test('after the deadline nothing remains, and never less than nothing', async (t) => {
  const { clock, made } = countdown()
  made.start()
  await clock.advance(40_000)
  t.equal(made.remaining(), 0)
  t.equal(made.elapsed(), 40_000)
})

t.test('a second start changes nothing: ECS counts from the first signal', async (t) => {
  const { clock, made, reached } = countdown()
  made.start()
  await clock.advance(10_000)
  made.start()
  t.equal(made.elapsed(), 10_000)
  await clock.advance(10_000)
  t.strictSame(reached(), ['drainLimit'])
})

t.test('hasten: the abort mark is now, and the abort grace is left', async (t) => {
  const { clock, made, reached } = countdown()
  made.start()
  await clock.advance(1000)
  made.hasten()
  t.strictSame(reached(), ['drainLimit', 'abort'])
  t.equal(made.remaining(), 3000)
  await clock.advance(2999)
  t.strictSame(reached(), ['drainLimit', 'abort'])
  await clock.advance(1)
  t.strictSame(reached(), ['drainLimit', 'abort', 'deadline'])
  t.equal(clock.pending, 0)
})

t.test('hasten never moves the deadline away', async (t) => {
  const { clock, made, reached } = countdown()
  made.start()
  await clock.advance(26_000)
  made.hasten()
  t.equal(made.remaining(), 2000)
  await clock.advance(1000)
  made.hasten()
  t.equal(made.remaining(), 1000)
  await clock.advance(1000)
  t.strictSame(reached(), ['drainLimit', 'abort', 'deadline'])
})

t.test('hasten after the deadline leaves the deadline where it was', async (t) => {
  const { clock, made } = countdown()
  made.start()
  await clock.advance(29_000)
  made.hasten()
  t.equal(made.remaining(), 0)
  t.equal(made.deadline.aborted, true)
})

t.test('hasten before the stop does nothing', async (t) => {
  const { clock, made, reached } = countdown()
  made.hasten()
  t.strictSame(reached(), [])
  t.equal(made.remaining(), Infinity)
  t.equal(clock.pending, 0)
})

t.test('stop leaves no timer, and no mark is reached any more', async (t) => {
  const { clock, made, reached } = countdown()
  made.start()
  made.stop()
  t.equal(clock.pending, 0)
  await clock.advance(100_000)
  t.strictSame(reached(), [])
})

t.test('any number of listeners on a mark is no leak', async (t) => {
  const { made } = countdown()
  const warnings: Error[] = []
  const warned = (warning: Error) => { warnings.push(warning) }
  process.on('warning', warned)
  for (const mark of [made.drainLimit, made.abort, made.streamLimit, made.deadline]) {
    for (let i = 0; i < 20; i++) mark.addEventListener('abort', () => {})
  }
  // A warning is emitted on the next tick.
  await turnOfEventLoop()
  process.off('warning', warned)
  t.strictSame(warnings, [])
})

t.test('settledBefore', async (t) => {
  const never = new Promise(() => {})
  const failed = () => Promise.reject(new Error('no matter'))

  t.test('a promise that settles first: true, whether it resolves or rejects', async (t) => {
    const { signal } = new AbortController()
    t.equal(await settledBefore(signal, Promise.resolve()), true)
    t.equal(await settledBefore(signal, failed()), true)
  })

  t.test('a promise that settles later, but before the signal: true', async (t) => {
    const controller = new AbortController()
    let resolve!: () => void
    const outcome = settledBefore(controller.signal, new Promise<void>((_resolve) => { resolve = _resolve }))
    await turnOfEventLoop()
    resolve()
    t.equal(await outcome, true)
    controller.abort()
  })

  t.test('a signal that comes first: false', async (t) => {
    const controller = new AbortController()
    const outcome = settledBefore(controller.signal, never)
    controller.abort()
    t.equal(await outcome, false)
  })

  t.test('a signal that came before: false, unless the promise has settled already', async (t) => {
    t.equal(await settledBefore(AbortSignal.abort(), never), false)
    t.equal(await settledBefore(AbortSignal.abort(), Promise.resolve()), true)
    t.equal(await settledBefore(AbortSignal.abort(), failed()), true)
  })

  t.test('leaves no listener on the signal', async (t) => {
    const { signal } = new AbortController()
    await settledBefore(signal, Promise.resolve())
    t.equal(getEventListeners(signal, 'abort').length, 0)
  })
})
