import t from 'tap'
import { Pending } from '../lib/pending.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'

function make () {
  const clock = new ManualClock()
  return { clock, pending: new Pending(clock) }
}

t.test('what has begun and not ended is a holder, oldest first, with name and age', async (t) => {
  const { clock, pending } = make()
  t.equal(pending.size, 0)
  const hook = pending.begin('hook', 'onClosing hook flush')
  clock.skip(1000.4)
  pending.begin('worker', 'worker orders', () => '3 active')
  pending.begin('worker', 'worker idle', () => '')
  t.equal(pending.size, 3)
  t.strictSame(pending.holders(), [
    { kind: 'hook', name: 'onClosing hook flush', ageMs: 1000 },
    { kind: 'worker', name: 'worker orders, 3 active', ageMs: 0 },
    { kind: 'worker', name: 'worker idle', ageMs: 0 }
  ])
  pending.end(hook)
  t.equal(pending.size, 2)
})

t.test('settled waits for all, also for what begins meanwhile', async (t) => {
  const { pending } = make()
  await pending.settled()
  const first = pending.begin('job', 'a')
  let isSettled = false
  void pending.settled().then(() => { isSettled = true })
  const second = pending.begin('job', 'b')
  pending.end(first)
  await turnOfEventLoop()
  t.equal(isSettled, false)
  pending.end(second)
  await turnOfEventLoop()
  t.equal(isSettled, true)
})

t.test('nextEnd resolves with the next end, and not with an earlier one', async (t) => {
  const { pending } = make()
  const first = pending.begin('job', 'a')
  const second = pending.begin('job', 'b')
  pending.end(first)
  let ended = 0
  void pending.nextEnd().then(() => { ended++ })
  void pending.nextEnd().then(() => { ended++ })
  await turnOfEventLoop()
  t.equal(ended, 0)
  pending.end(second)
  await turnOfEventLoop()
  t.equal(ended, 2)
})
