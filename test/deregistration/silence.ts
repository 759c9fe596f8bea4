import t from 'tap'
import { judge, neededSilence, Pauses } from '../../lib/deregistration/silence.js'
import type { Situation } from '../../lib/deregistration/silence.js'
import { seeded } from '../support/traffic.js'

const FLOOR_MS = 3000
const MINUTE_MS = 60_000

/** Pauses of one length, one after the other, until `untilMs`. */
function steady (pauses: Pauses, pauseMs: number, fromMs: number, untilMs: number): void {
  for (let at = fromMs + pauseMs; at <= untilMs; at += pauseMs) pauses.record(pauseMs, at)
}

function situation (changes: Partial<Situation>): Situation {
  return {
    nowMs: 100_000,
    signalMs: 100_000,
    lastArrivalMs: 99_000,
    usualMs: 100,
    floorMs: FLOOR_MS,
    drainEndMs: 115_000,
    drainLimitMs: 120_000,
    inFlight: 0,
    ...changes
  }
}

t.test('the usual pause', async t => {
  t.test('is unknown without a request, also without a floor', async t => {
    t.equal(new Pauses().usual(FLOOR_MS), undefined)
    t.equal(new Pauses().usual(0), undefined)
  })

  t.test('is unknown until sixty floors of traffic were seen', async t => {
    const pauses = new Pauses()
    steady(pauses, 100, 0, 179_900)
    t.equal(pauses.usual(FLOOR_MS), undefined)
    pauses.record(100, 180_000)
    t.type(pauses.usual(FLOOR_MS), 'number')
    t.equal(pauses.usual(FLOOR_MS + 1), undefined)
  })

  t.test('is unknown before six seconds of traffic, however low the floor', async t => {
    const pauses = new Pauses()
    steady(pauses, 50, 0, 5950)
    t.equal(pauses.usual(1), undefined)
    pauses.record(50, 6000)
    t.equal(pauses.usual(1), 2 ** (23 / 4))
    t.equal(pauses.usual(100), 2 ** (23 / 4))
    t.equal(pauses.usual(101), undefined)
  })

  t.test('is the upper edge of the bucket: never shorter than the pause, at most 19 % longer', async t => {
    const random = seeded(1)
    for (let i = 0; i < 200; i++) {
      const pauseMs = 2 ** (random() * 18.2)
      const pauses = new Pauses()
      while (pauses.usual(0) === undefined) pauses.record(pauseMs, 0)
      const usual = pauses.usual(0)!
      t.ok(usual >= pauseMs && usual <= pauseMs * 2 ** 0.25 * (1 + 1e-9), `${pauseMs} is counted as ${usual}`)
    }
  })

  t.test('has its edges at whole quarters of a doubling', async t => {
    for (const [pauseMs, usual] of [[0.01, 1], [1, 1], [1.01, 2 ** 0.25], [2, 2], [2.01, 2 ** 1.25], [1024, 1024], [311_000, 2 ** 18.25]] as const) {
      const pauses = new Pauses()
      for (let i = 0; i < 6000 / pauseMs; i++) pauses.record(pauseMs, 0)
      pauses.record(pauseMs, 0)
      t.equal(pauses.usual(0), usual, `${pauseMs} ms`)
    }
  })

  t.test('is endless beyond five minutes', async t => {
    const pauses = new Pauses()
    pauses.record(312_000, 400_000)
    t.equal(pauses.usual(FLOOR_MS), Infinity)
    pauses.record(86_400_000, 90_000_000)
    t.equal(pauses.usual(FLOOR_MS), Infinity)
  })

  t.test('is weighted by length: two seconds in a hundred are not rare, however many short pauses there are', async t => {
    const pauses = new Pauses()
    steady(pauses, 1, 0, 200_000)
    t.equal(pauses.usual(FLOOR_MS), 1)
    // One pause in 200 000, yet 2 % of the time.
    pauses.record(4096, 204_096)
    t.equal(pauses.usual(FLOOR_MS), 4096)
  })

  t.test('does not know of pauses that take up one per cent of the time, and knows of more', async t => {
    const pauses = new Pauses()
    for (let i = 0; i < 1980; i++) pauses.record(100, 0)
    pauses.record(2000, 0)
    t.equal(pauses.usual(FLOOR_MS), 2 ** (27 / 4))
    pauses.record(100, 0)
    t.equal(pauses.usual(FLOOR_MS), 2 ** (27 / 4))
    pauses.record(2000, 0)
    t.equal(pauses.usual(FLOOR_MS), 2048)
  })

  t.test('does not know of one odd pause of two seconds in five minutes', async t => {
    const pauses = new Pauses()
    steady(pauses, 50, 0, 150_000)
    pauses.record(2000, 152_000)
    steady(pauses, 50, 152_000, 299_000)
    t.equal(pauses.usual(FLOOR_MS), 2 ** (23 / 4))
  })

  t.test('knows of one pause of the default floor, wherever in the five minutes it was', async t => {
    for (let odd = 10_000; odd < 290_000; odd += 7000) {
      const pauses = new Pauses()
      steady(pauses, 50, 0, odd)
      pauses.record(FLOOR_MS, odd + FLOOR_MS)
      steady(pauses, 50, odd + FLOOR_MS, 299_000)
      t.equal(pauses.usual(FLOOR_MS), 2 ** (47 / 4), `at ${odd}`)
    }
  })

  t.test('is that of the last four to five minutes', async t => {
    const pauses = new Pauses()
    steady(pauses, 1000, 0, MINUTE_MS - 1)
    steady(pauses, 100, MINUTE_MS, 5 * MINUTE_MS - 1)
    t.equal(pauses.usual(FLOOR_MS), 2 ** (40 / 4), 'in the fifth minute the first one counts')
    pauses.record(100, 5 * MINUTE_MS)
    t.equal(pauses.usual(FLOOR_MS), 2 ** (27 / 4), 'in the sixth it does not')
  })

  t.test('forgets the minutes that were skipped, too', async t => {
    const pauses = new Pauses()
    steady(pauses, 1000, 0, 3 * MINUTE_MS)
    pauses.record(100, 6 * MINUTE_MS)
    steady(pauses, 100, 6 * MINUTE_MS, 9 * MINUTE_MS)
    t.equal(pauses.usual(FLOOR_MS), 2 ** (27 / 4))
  })

  t.test('forgets everything after a long silence but the silence itself', async t => {
    for (const silence of [4, 5, 6, 59, 60, 1000]) {
      const pauses = new Pauses()
      steady(pauses, 100, 0, 4 * MINUTE_MS)
      const resumed = (4 + silence) * MINUTE_MS
      pauses.record(silence * MINUTE_MS, resumed)
      const usual = pauses.usual(FLOOR_MS)!
      t.ok(usual >= silence * MINUTE_MS, `${silence} min`)
      steady(pauses, 100, resumed, resumed + 6 * MINUTE_MS)
      t.equal(pauses.usual(FLOOR_MS), 2 ** (27 / 4), 'and that after five more minutes')
    }
  })

  t.test('of a busy service is still known when it has been silent for the default deregistration delay and longer', async t => {
    const pauses = new Pauses()
    steady(pauses, 10, 0, 5 * MINUTE_MS)
    t.equal(neededSilence(pauses.usual(FLOOR_MS), FLOOR_MS), FLOOR_MS)
  })

  t.test('agrees with an exact computation, for any traffic', async t => {
    const random = seeded(2)
    for (let run = 0; run < 50; run++) {
      const pauses = new Pauses()
      const seen: number[] = []
      let at = 1e6 * random()
      const start = at
      while (at < start + 200_000) {
        const pause = 2 ** (random() * 13)
        at += pause
        seen.push(pause)
        pauses.record(pause, at)
      }
      seen.sort((a, b) => b - a)
      const rare = seen.reduce((a, b) => a + b) / 100
      let longer = 0
      const exact = seen.find(pause => (longer += pause) > rare)!
      const usual = pauses.usual(FLOOR_MS)!
      t.ok(usual >= exact && usual <= exact * 2 ** 0.25 + 1e-6, `${exact} is ${usual}`)
    }
  })
})

t.test('the needed silence', async t => {
  t.test('is ten times the usual pause', async t => { t.equal(neededSilence(400, FLOOR_MS), 4000) })
  t.test('is never below the floor', async t => { t.equal(neededSilence(299, FLOOR_MS), FLOOR_MS) })
  t.test('is endless where nothing is usual', async t => { t.equal(neededSilence(undefined, 0), Infinity) })
})

t.test('closing begins', async t => {
  t.test('when the silence reaches the floor, not before', async t => {
    t.same(judge(situation({ nowMs: 101_999 })), { letGo: false, checkInMs: 1 })
    t.same(judge(situation({ nowMs: 102_000 })), { letGo: true, reason: 'no request for 3 s, the usual pause here is 0.1 s' })
  })

  t.test('when the silence reaches ten usual pauses, not before', async t => {
    t.same(judge(situation({ usualMs: 512 })), { letGo: false, checkInMs: 4120 })
    t.same(judge(situation({ usualMs: 512, nowMs: 104_119 })), { letGo: false, checkInMs: 1 })
    t.same(judge(situation({ usualMs: 512, nowMs: 104_120 })), { letGo: true, reason: 'no request for 5.1 s, the usual pause here is 0.51 s' })
  })

  t.test('at once when the silence had begun long before the signal', async t => {
    t.same(judge(situation({ lastArrivalMs: 40_000 })), { letGo: true, reason: 'no request for 60 s, the usual pause here is 0.1 s' })
  })

  t.test('at the end of the window when silence proves nothing', async t => {
    for (const unknown of [{ usualMs: undefined }, { usualMs: Infinity }, { lastArrivalMs: undefined }, { lastArrivalMs: undefined, usualMs: undefined }]) {
      t.same(judge(situation(unknown)), { letGo: false, checkInMs: 15_000 })
      t.same(judge(situation({ ...unknown, nowMs: 114_999.5 })), { letGo: false, checkInMs: 1 })
      t.same(judge(situation({ ...unknown, nowMs: 115_000 })), { letGo: true, reason: 'the deregistration window of 15 s has passed' })
    }
  })

  t.test('not before the end of the window while a response is under way', async t => {
    t.same(judge(situation({ lastArrivalMs: 40_000, inFlight: 1 })), { letGo: false, checkInMs: 15_000 })
    t.same(judge(situation({ lastArrivalMs: 40_000, inFlight: 1, nowMs: 115_000 })), { letGo: true, reason: 'the deregistration window of 15 s has passed' })
  })

  t.test('not before a client that waited for the last response has had ten usual pauses to go on', async t => {
    t.same(judge(situation({ lastArrivalMs: 90_000, lastEndMs: 100_000 })), { letGo: false, checkInMs: 1000 })
    t.match(judge(situation({ lastArrivalMs: 90_000, lastEndMs: 99_000 })), { letGo: true })
    t.match(judge(situation({ lastArrivalMs: 90_000, lastEndMs: undefined })), { letGo: true })
  })

  t.test('after the end of the window when requests still come, as soon as they stop', async t => {
    t.same(judge(situation({ nowMs: 115_000, lastArrivalMs: 113_500 })), { letGo: false, checkInMs: 1500 })
    t.same(judge(situation({ nowMs: 116_500, lastArrivalMs: 113_500 })),
      { letGo: true, reason: 'the deregistration window of 15 s has passed, and no request came for 3 s' })
    t.same(judge(situation({ nowMs: 115_000, lastArrivalMs: 112_000 })), { letGo: true, reason: 'the deregistration window of 15 s has passed' })
  })

  t.test('after the end of the window with the floor alone, whatever is usual and in flight', async t => {
    t.same(judge(situation({ nowMs: 115_000, lastArrivalMs: 114_000, usualMs: undefined, inFlight: 3 })), { letGo: false, checkInMs: 2000 })
    t.match(judge(situation({ nowMs: 117_000, lastArrivalMs: 114_000, usualMs: 5000, inFlight: 3 })), { letGo: true })
  })

  t.test('at the drain limit at the latest', async t => {
    t.same(judge(situation({ nowMs: 118_000, lastArrivalMs: 117_900 })), { letGo: false, checkInMs: 2000 })
    t.same(judge(situation({ nowMs: 119_999.9, lastArrivalMs: 119_000 })), { letGo: false, checkInMs: 1 })
    t.same(judge(situation({ nowMs: 120_000, lastArrivalMs: 119_999 })), { letGo: true, reason: 'the drain limit of 20 s was reached while requests still came' })
  })

  t.test('at the end of a window that is the drain limit, with the reason that is true', async t => {
    const marks = { drainEndMs: 120_000, nowMs: 120_000 }
    t.same(judge(situation({ ...marks, lastArrivalMs: 119_000 })), { letGo: true, reason: 'the drain limit of 20 s was reached while requests still came' })
    t.same(judge(situation({ ...marks, usualMs: undefined, lastArrivalMs: 101_000 })), { letGo: true, reason: 'the deregistration window of 20 s has passed' })
  })

  t.test('without a floor at ten usual pauses, and at the end of the window whatever came', async t => {
    t.same(judge(situation({ floorMs: 0, lastArrivalMs: 99_500 })), { letGo: false, checkInMs: 500 })
    t.match(judge(situation({ floorMs: 0 })), { letGo: true })
    t.match(judge(situation({ floorMs: 0, nowMs: 115_000, lastArrivalMs: 115_000 })), { letGo: true })
  })
})

t.test('whoever sleeps as long as told wakes up to an answer, in few steps, for any numbers', async t => {
  const random = seeded(3)
  let most = 0
  for (let run = 0; run < 2000; run++) {
    const signalMs = random() * 1e7
    const lengthMs = random() * 60_000
    const drainEndMs = signalMs + lengthMs * random()
    const drainLimitMs = signalMs + lengthMs
    const fixed = {
      signalMs,
      drainEndMs,
      drainLimitMs,
      lastArrivalMs: random() < 0.1 ? undefined : signalMs + (random() - 0.5) * 20_000,
      lastEndMs: random() < 0.5 ? undefined : signalMs + (random() - 0.5) * 20_000,
      usualMs: random() < 0.1 ? undefined : random() * 2000,
      floorMs: random() * 5000,
      inFlight: random() < 0.2 ? 1 : 0
    }
    let nowMs = Math.max(signalMs, fixed.lastArrivalMs ?? 0)
    let steps = 0
    for (;;) {
      const judgement = judge({ ...fixed, nowMs })
      if (judgement.letGo) break
      if (!Number.isInteger(judgement.checkInMs) || judgement.checkInMs < 1) return t.fail(`checkInMs ${judgement.checkInMs} in run ${run}`)
      // Nothing may become true earlier: two milliseconds before, the answer is the same.
      if (judgement.checkInMs > 2 && judge({ ...fixed, nowMs: nowMs + judgement.checkInMs - 2 }).letGo) t.fail(`slept too long in run ${run}`)
      nowMs += judgement.checkInMs
      most = Math.max(most, ++steps)
      if (steps > 4) return t.fail(`${steps} steps in run ${run}`)
    }
    if (nowMs > Math.max(drainLimitMs + 2, signalMs, fixed.lastArrivalMs ?? 0)) t.fail(`${nowMs - drainLimitMs} ms after the limit`)
  }
  t.ok(most > 0, `at most ${most} steps`)
})
