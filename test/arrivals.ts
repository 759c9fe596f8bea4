import t from 'tap'
import { Arrivals } from '../lib/arrivals.js'
import { ManualClock } from './support/clock.js'

function make () {
  const clock = new ManualClock()
  let ticks = 0
  const arrivals = new Arrivals(clock, () => { ticks++ })
  return { arrivals, clock, ticks: () => ticks }
}

t.test('requests within 20 ms are one arrival, at the end of the tick', async (t) => {
  const { arrivals, clock, ticks } = make()
  const start = clock.now()
  const tick = arrivals.countNow()
  await clock.advance(19)
  t.equal(arrivals.countNow(), tick)
  t.equal(arrivals.lastAt, undefined)
  await clock.advance(1)
  t.equal(arrivals.lastAt, start + 20)
  t.equal(tick.at, start + 20)
  t.equal(ticks(), 1)
  t.not(arrivals.countNow(), tick)
  t.equal(ticks(), 2)
})

t.test('stop() ends the tick now and leaves no timer', async (t) => {
  const { arrivals, clock } = make()
  arrivals.stop()
  t.equal(arrivals.lastAt, undefined)
  arrivals.countNow()
  await clock.advance(5)
  arrivals.stop()
  t.equal(arrivals.lastAt, clock.now())
  t.equal(clock.pending, 0)
})

t.test('a tick whose requests are all discounted is no arrival, before its end and after', async (t) => {
  const { arrivals, clock } = make()
  arrivals.came(clock.now(), {})
  const first = arrivals.lastAt
  const before = arrivals.countNow()
  arrivals.discount(before)
  await clock.advance(20)
  t.equal(arrivals.lastAt, first)

  const after = arrivals.countNow()
  arrivals.countNow()
  await clock.advance(20)
  t.equal(arrivals.lastAt, clock.now())
  arrivals.discount(after)
  t.equal(arrivals.lastAt, clock.now(), 'one of two is left')
  arrivals.discount(after)
  t.equal(arrivals.lastAt, first)
})

t.test('an arrival is taken back unless a later one came', async (t) => {
  const { arrivals, clock } = make()
  const [one, two] = [{}, {}]
  arrivals.came(clock.now(), one)
  const first = arrivals.lastAt
  await clock.advance(100)
  arrivals.came(clock.now(), two)
  arrivals.takeBack(one)
  t.equal(arrivals.lastAt, clock.now())
  arrivals.takeBack(two)
  t.equal(arrivals.lastAt, first)
})

t.test('the pauses between arrivals add up to the usual one', async (t) => {
  const { arrivals, clock } = make()
  t.equal(arrivals.usualPause(100), undefined)
  for (let i = 0; i < 100; i++) {
    arrivals.countNow()
    await clock.advance(100)
  }
  const usual = arrivals.usualPause(100)!
  t.ok(usual >= 100 && usual <= 119, `${usual} ms, rounded up by at most 19 %`)
})

t.test('a pause counts once, however often the usual one is asked for', async (t) => {
  const { arrivals, clock } = make()
  const comes = (pauseMs: number) => {
    clock.skip(pauseMs)
    arrivals.came(clock.now(), {})
  }
  for (let i = 0; i <= 1000; i++) comes(100)
  const usual = arrivals.usualPause(100)
  // Not quite 1 % of the time: too rare to count, unless it is counted twice.
  comes(900)
  for (let i = 0; i < 3; i++) t.equal(arrivals.usualPause(100), usual)
})
