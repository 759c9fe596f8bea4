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

t.test('two of one name are two, and one that ends twice ends once', async (t) => {
  const { pending } = make()
  const first = pending.begin('job', 'a')
  pending.begin('job', 'a')
  pending.end(first)
  pending.end(first)
  t.equal(pending.size, 1)
})

t.test('an end that somebody reacts to at once by another wait does not wake that one', async (t) => {
  const { pending } = make()
  const first = pending.begin('job', 'a')
  const second = pending.begin('job', 'b')
  let ends = 0
  void (async () => {
    for (;;) {
      await pending.nextEnd()
      ends++
    }
  })()
  pending.end(first)
  await turnOfEventLoop()
  t.equal(ends, 1)
  pending.end(second)
  await turnOfEventLoop()
  t.equal(ends, 2)
})

t.test('what more there is to say is asked when the holders are named, also of one that has ended', async (t) => {
  const { clock, pending } = make()
  let active = 3
  const entry = pending.begin('worker', 'worker orders', () => `${active} active`)
  active = 1
  t.match(pending.holders(), [{ name: 'worker orders, 1 active' }])
  pending.end(entry)
  clock.skip(2000)
  t.strictSame(pending.describe(entry), { kind: 'worker', name: 'worker orders, 1 active', ageMs: 2000 })
})
