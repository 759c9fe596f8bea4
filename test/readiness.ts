import t from 'tap'
import { resolveConfig } from '../lib/config.js'
import { Readiness } from '../lib/readiness.js'
import { type ReadinessCheck } from '../types/index.js'
import { ManualClock } from './support/clock.js'
import { memoryLog } from './support/log.js'

type Outcome = 'ok' | 'false' | 'throw' | 'reject' | 'nothing' | 'hang'

function make (options: Partial<ReadinessCheck> = {}) {
  const clock = new ManualClock()
  const memory = memoryLog()
  const state: { outcome: Outcome, calls: number, signals: AbortSignal[] } = { outcome: 'ok', calls: 0, signals: [] }
  const readiness = new Readiness(resolveConfig({
    readiness: {
      check (signal) {
        state.calls++
        state.signals.push(signal)
        switch (state.outcome) {
          case 'ok': return true
          case 'false': return false
          case 'throw': throw new Error('thrown')
          case 'reject': return Promise.reject(new Error('rejected'))
          // eslint-disable-next-line prefer-promise-reject-errors -- what a careless check does
          case 'nothing': return Promise.reject()
          case 'hang': return new Promise(() => {})
        }
      },
      ...options
    }
  }, {}).readiness!, clock, memory.log)
  /** One check, past the cache, with its outcome. */
  const ask = async (outcome: Outcome) => {
    state.outcome = outcome
    await clock.advance(5000)
    const answer = readiness.isPassing()
    if (outcome === 'hang') await clock.advance(2000)
    return await answer
  }
  return { ...memory, clock, readiness, state, ask }
}

t.test('a check that succeeds passes, whatever it returns but false', async (t) => {
  for (const value of [true, undefined, null, 0, '']) {
    const { readiness } = make({ check: () => value })
    t.equal(await readiness.isPassing(), true, String(value))
  }
})

t.test('the result is reused for the time of the cache, counted from the end of the check', async (t) => {
  const { clock, readiness, state } = make({ cache: 5 })
  await readiness.isPassing()
  await clock.advance(4999)
  await readiness.isPassing()
  t.equal(state.calls, 1)
  await clock.advance(1)
  await readiness.isPassing()
  t.equal(state.calls, 2)
})

t.test('checks never run side by side: all who ask meanwhile get the one result', async (t) => {
  let finish!: (value: boolean) => void
  let calls = 0
  const { readiness } = make({ failures: 1, check: () => { calls++; return new Promise<boolean>((resolve) => { finish = resolve }) } })
  const answers = Promise.all([readiness.isPassing(), readiness.isPassing(), readiness.isPassing()])
  await new Promise((resolve) => { setImmediate(resolve) })
  finish(false)
  t.strictSame(await answers, [false, false, false])
  t.equal(calls, 1)
})

for (const outcome of ['false', 'throw', 'reject', 'nothing', 'hang'] as const) {
  t.test(`three failures in a row say 503 (${outcome}), two do not`, async (t) => {
    const { ask, of } = make()
    t.equal(await ask('ok'), true)
    t.equal(await ask(outcome), true)
    t.equal(await ask(outcome), true)
    t.equal(await ask(outcome), false)
    t.strictSame(of('error'), ['the readiness check failed 3 times in a row, so readiness says 503'])
  })
}

t.test('failures that are not in a row do not count together', async (t) => {
  const { ask } = make()
  for (const outcome of ['throw', 'throw', 'ok', 'throw', 'throw', 'ok'] as const) t.equal(await ask(outcome), true)
  t.equal(await ask('throw'), true)
  t.equal(await ask('throw'), true)
  t.equal(await ask('throw'), false)
})

t.test('two successes in a row say 200 again, one does not, nor two that are not in a row', async (t) => {
  const { ask, of } = make()
  for (let i = 0; i < 3; i++) await ask('throw')
  t.equal(await ask('ok'), false)
  t.equal(await ask('throw'), false)
  t.equal(await ask('ok'), false)
  t.equal(await ask('ok'), true)
  t.strictSame(of('info'), ['the readiness check succeeds again, so readiness says 200'])
  t.equal(await ask('throw'), true, 'from here three failures are needed again')
})

t.test('failures: 1 and successes: 1 switch at once', async (t) => {
  const { ask } = make({ failures: 1, successes: 1 })
  t.equal(await ask('throw'), false)
  t.equal(await ask('ok'), true)
})

t.test('only a change is logged, with the error', async (t) => {
  const { ask, lines } = make({ failures: 1 })
  for (let i = 0; i < 4; i++) await ask('throw')
  t.equal(lines.length, 1)
  t.match(lines[0], { level: 'error', err: { message: 'thrown' } })
})

for (const [outcome, message] of [
  ['false', 'the readiness check returned false'], ['nothing', 'the readiness check failed'],
  ['hang', 'the readiness check took longer than 2 s.']
] as const) {
  t.test(`a failure without an error of its own (${outcome}) is logged with one`, async (t) => {
    const { ask, lines } = make({ failures: 1 })
    await ask(outcome)
    t.match(lines, [{ err: { message } }])
  })
}

t.test('a check that hangs is given up at its time limit, and its signal is aborted', async (t) => {
  const { clock, readiness, state } = make({ timeout: 2, failures: 1 })
  state.outcome = 'hang'
  let answer: boolean | undefined
  void readiness.isPassing().then((given) => { answer = given })
  await clock.advance(1999)
  t.equal(answer, undefined)
  t.equal(state.signals[0]?.aborted, false)
  await clock.advance(1)
  t.equal(answer, false)
  t.equal(state.signals[0]?.aborted, true)
  t.equal(clock.pending, 0)
})
