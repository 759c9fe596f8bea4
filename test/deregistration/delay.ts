import t from 'tap'
import { delay } from '../../lib/deregistration/delay.js'
import { waiting } from '../support/waiting.js'

function begin (deregistrationDelay: number, elapsedMs = 0) {
  const { clock, parts } = waiting({ deregistration: 'delay', deregistrationDelay })
  const controller = new AbortController()
  const state: { reason?: string } = {}
  const run = async () => {
    await clock.advance(elapsedMs)
    void delay(parts, controller.signal).then((reason) => { state.reason = reason })
  }
  return { clock, controller, state, run }
}

t.test('the whole delay is waited for, to the millisecond', async (t) => {
  const { clock, state, run } = begin(10)
  await run()
  await clock.advance(9999)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.equal(state.reason, 'the whole deregistration delay of 10 s was waited for')
  t.equal(clock.pending, 0)
})

t.test('it counts from the stop signal', async (t) => {
  const { clock, state, run } = begin(10, 4000)
  await run()
  await clock.advance(5999)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.ok(state.reason)
})

t.test('the drain limit caps it', async (t) => {
  const { clock, state, run } = begin(300)
  await run()
  await clock.advance(19_999)
  t.equal(state.reason, undefined)
  await clock.advance(1)
  t.equal(state.reason, 'the whole deregistration delay of 20 s was waited for')
})

t.test('a delay of 0 waits for nothing', async (t) => {
  const { clock, state, run } = begin(0)
  await run()
  await clock.advance(0)
  t.ok(state.reason)
})

t.test('when draining is ended otherwise it waits no longer', async (t) => {
  const { clock, controller, state, run } = begin(10)
  await run()
  controller.abort()
  await clock.settle()
  t.ok(state.reason)
  t.equal(clock.pending, 0)
})
