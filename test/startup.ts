import t from 'tap'
import { resolveConfig } from '../lib/config.js'
import { passStartup } from '../lib/startup.js'
import { type StartupCheck } from '../types/index.js'
import { ManualClock } from './support/clock.js'
import { memoryLog } from './support/log.js'

function begin (...startup: StartupCheck[]) {
  const clock = new ManualClock()
  const memory = memoryLog()
  const stop = new AbortController()
  const state = { isPassed: false }
  void passStartup(resolveConfig({ startup }, {}).startup, clock, memory.log, stop.signal).then(() => { state.isPassed = true })
  return { ...memory, clock, stop, state }
}

t.test('without checks a service has started', async (t) => {
  const { clock, state } = begin()
  await clock.settle()
  t.equal(state.isPassed, true)
})

t.test('checks that succeed, plain or promised, whatever they return, let it start', async (t) => {
  const { clock, state, lines } = begin({ name: 'a', check: () => false }, { name: 'b', check: async () => undefined })
  await clock.settle()
  t.equal(state.isPassed, true)
  t.strictSame(lines, [])
  t.equal(clock.pending, 0)
})

t.test('a check that fails is tried again after 0.5, 1, 2, 4, 8, 10, 10, ... s', async (t) => {
  const attempts: number[] = []
  const clock = new ManualClock()
  const startedAt = clock.now()
  void passStartup(resolveConfig({
    startup: [{
      name: 'db',
      check () {
        attempts.push(clock.now() - startedAt)
        throw new Error('refused')
      }
    }]
  }, {}).startup, clock, memoryLog().log, new AbortController().signal)
  await clock.advance(45_500)
  t.strictSame(attempts, [0, 500, 1500, 3500, 7500, 15_500, 25_500, 35_500, 45_500])
})

t.test('each failure is logged with the name, the error and when it is tried again', async (t) => {
  const { clock, lines } = begin({ name: 'database', check: () => { throw new Error('refused') } })
  await clock.advance(500)
  t.match(lines, [
    { level: 'warn', check: 'database', retryMs: 500, err: { message: 'refused' }, msg: /startup check database failed.*next attempt in 0\.5 s/ },
    { level: 'warn', check: 'database', retryMs: 1000, msg: /next attempt in 1 s/ }
  ])
  t.equal(lines.length, 2)
})

t.test('it has passed when each has succeeded once; one that has is not asked again', async (t) => {
  const calls = { quick: 0, late: 0 }
  const { clock, state } = begin(
    { name: 'quick', check: () => { calls.quick++ } },
    { name: 'late', check: () => { if (++calls.late < 3) return Promise.reject(new Error('not yet')) } }
  )
  await clock.advance(1499)
  t.equal(state.isPassed, false)
  await clock.advance(1)
  t.equal(state.isPassed, true)
  t.strictSame(calls, { quick: 1, late: 3 })
  t.equal(clock.pending, 0)
})

t.test('a check that hangs has failed at its time limit, its signal is aborted, and it is tried again', async (t) => {
  const signals: AbortSignal[] = []
  const { clock, lines, state } = begin({
    name: 'slow',
    timeout: 2,
    check: (signal) => {
      signals.push(signal)
      return signals.length === 2 ? undefined : new Promise(() => {})
    }
  })
  await clock.advance(1999)
  t.equal(signals[0]?.aborted, false)
  await clock.advance(1)
  t.equal(signals[0]?.aborted, true)
  t.match(lines, [{ err: { code: 'FARGATE_ERR_TIME_LIMIT', message: 'startup check slow took longer than 2 s.' } }])
  await clock.advance(500)
  t.equal(state.isPassed, true)
})

t.test('checks run side by side', async (t) => {
  const started: string[] = []
  const { clock } = begin(
    { name: 'a', check: () => { started.push('a'); return new Promise(() => {}) } },
    { name: 'b', check: () => { started.push('b'); return new Promise(() => {}) } }
  )
  await clock.settle()
  t.strictSame(started, ['a', 'b'])
})

t.test('a stop ends the waiting for the next attempt, and there is none', async (t) => {
  let attempts = 0
  const { clock, stop, state } = begin({ name: 'db', check: () => { attempts++; throw new Error('refused') } })
  await clock.advance(100)
  stop.abort()
  await clock.settle()
  t.equal(state.isPassed, true, 'whoever waits for it is not held')
  t.equal(clock.pending, 0)
  await clock.advance(60_000)
  t.equal(attempts, 1)
})

t.test('a stop in the middle of an attempt leaves nothing that keeps the process alive', async (t) => {
  const { clock, stop } = begin({ name: 'db', check: () => new Promise(() => {}) })
  await clock.settle()
  stop.abort()
  await clock.settle()
  t.equal(clock.pending, 0)
})

t.test('when the stop has begun before, no check is asked', async (t) => {
  let attempts = 0
  const checks = resolveConfig({ startup: [{ name: 'db', check: () => { attempts++ } }] }, {}).startup
  await passStartup(checks, new ManualClock(), memoryLog().log, AbortSignal.abort())
  t.equal(attempts, 0)
})
