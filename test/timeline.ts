import t from 'tap'
import { resolveConfig } from '../lib/config.js'
import { computeTimeline } from '../lib/timeline.js'
import { type FargateOptions } from '../types/index.js'
import { random } from './support/random.js'

const marks = (options: FargateOptions) => computeTimeline(resolveConfig(options, {}))

t.test('the defaults give the marks of the README: 20, 20, 25.2, 26.6, 28, 29 and 30 s; a close frame may wait 4 s for its answer', async (t) => {
  t.strictSame(marks({}), {
    drainEnd: 20_000, drainLimit: 20_000, abort: 25_200, streamLimit: 26_600, deadline: 28_000, backstop: 29_000, stopTimeout: 30_000, goodbyeGrace: 4000
  })
})

t.test('stopTimeout 120 s, the most that Fargate allows, leaves 84.3 s for draining', async (t) => {
  t.strictSame(marks({ stopTimeout: 120 }), {
    drainEnd: 20_000, drainLimit: 84_286, abort: 115_000, streamLimit: 116_500, deadline: 118_000, backstop: 119_000, stopTimeout: 120_000, goodbyeGrace: 16_857
  })
})

t.test('the deregistration delay ends draining where it is below the drain limit', async (t) => {
  t.match(marks({ deregistrationDelay: 5 }), { drainEnd: 5000, drainLimit: 20_000 })
  t.match(marks({ deregistrationDelay: 0 }), { drainEnd: 0, drainLimit: 20_000 })
})

t.test('the drain limit caps the deregistration delay', async (t) => {
  t.match(marks({ deregistrationDelay: 300 }), { drainEnd: 20_000, drainLimit: 20_000 })
})

t.test('the backstop is half-way between the deadline and SIGKILL', async (t) => {
  t.match(marks({ stopTimeout: 10, margin: 4 }), { deadline: 6000, backstop: 8000, stopTimeout: 10_000 })
})

t.test('all of the deadline may be kept for closing: then there is no draining', async (t) => {
  t.match(marks({ stopTimeout: 10, margin: 1, closeReserve: 9 }), { drainEnd: 0, drainLimit: 0, deadline: 9000 })
})

t.test('the marks are whole milliseconds and cannot be changed', async (t) => {
  const timeline = marks({ stopTimeout: 31.337 })
  t.ok(Object.isFrozen(timeline))
  for (const mark of Object.values(timeline)) t.ok(Number.isInteger(mark), String(mark))
})

t.test('whatever the accepted configuration, the marks come in order and before SIGKILL', async (t) => {
  const { next, between } = random(1)
  let accepted = 0
  let refused = 0
  for (let i = 0; i < 20_000; i++) {
    const step = next() < 0.5 ? 1 : 0.01
    const options: FargateOptions = { stopTimeout: between(2, next() < 0.5 ? 130 : 3600, step) }
    if (next() < 0.5) options.deregistrationDelay = between(0, next() < 0.5 ? 60 : 3600, step)
    if (next() < 0.5) options.margin = between(0.1, next() < 0.7 ? 5 : 60, 0.01)
    if (next() < 0.5) options.closeReserve = between(0.1, next() < 0.7 ? 20 : 3600, 0.01)
    if (next() < 0.5) options.abortGrace = between(0.05, next() < 0.7 ? 5 : 600, 0.01)
    let timeline
    try {
      timeline = marks(options)
      accepted++
    } catch (error) {
      refused++
      if ((error as { code?: string }).code !== 'FARGATE_ERR_NO_TIME_TO_CLOSE') throw error
      continue
    }
    const { drainEnd, drainLimit, abort, deadline, backstop, stopTimeout } = timeline
    const inOrder = drainEnd >= 0 && drainEnd <= drainLimit && drainLimit <= abort && abort <= deadline &&
      deadline < backstop && backstop < stopTimeout
    if (!inOrder) t.fail('out of order', { options, timeline })
  }
  t.ok(accepted > 5000, `${accepted} accepted`)
  t.ok(refused > 1000, `${refused} refused`)
})
