import { getEventListeners } from 'node:events'
import t from 'tap'
import { limited, sleep, systemClock } from '../lib/clock.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'

t.test('the system clock', async (t) => {
  t.test('does not go backwards, and counts milliseconds', async (t) => {
    const before = systemClock.now()
    const startedAt = process.hrtime.bigint()
    await new Promise<void>((resolve) => { systemClock.after(20, resolve) })
    const elapsedMs = systemClock.now() - before
    const referenceMs = Number(process.hrtime.bigint() - startedAt) / 1e6
    t.ok(elapsedMs >= 20, `${elapsedMs} ms`)
    t.ok(Math.abs(elapsedMs - referenceMs) < referenceMs, 'the unit is the millisecond')
  })

  t.test('never fires early by its own count', async (t) => {
    for (const ms of [0, 0.4, 1, 1.6, 3]) {
      const before = systemClock.now()
      await new Promise<void>((resolve) => { systemClock.after(ms, resolve) })
      const elapsedMs = systemClock.now() - before
      t.ok(elapsedMs >= ms, `${elapsedMs} >= ${ms}`)
    }
  })

  t.test('a timer that is called off does not fire', async (t) => {
    let fired = false
    systemClock.after(1, () => { fired = true })()
    await new Promise<void>((resolve) => { systemClock.after(5, resolve) })
    t.equal(fired, false)
  })

  t.test('a time longer than any timer of Node\'s does not fire at once', async (t) => {
    let fired = false
    const cancel = systemClock.after(Infinity, () => { fired = true })
    const cancelFinite = systemClock.after(2 ** 40, () => { fired = true })
    await new Promise<void>((resolve) => { systemClock.after(5, resolve) })
    cancel()
    cancelFinite()
    t.equal(fired, false)
  })

  t.test('a timer in the background fires as well, can be called off, and does not keep the process alive', async (t) => {
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
    const before = timers()
    let fired = false
    const cancel = systemClock.inBackground(2, () => { fired = true })
    t.equal(timers(), before)
    const cancelOther = systemClock.after(10_000, () => {})
    t.equal(timers(), before + 1, 'one in the foreground does')
    cancelOther()
    cancel()
    await new Promise<void>((resolve) => { systemClock.after(5, resolve) })
    t.equal(fired, false)
    // The process would end before otherwise.
    const keepAlive = systemClock.after(60_000, () => {})
    await new Promise<void>((resolve) => { systemClock.inBackground(1, resolve) })
    keepAlive()
  })

  t.test('the end of the turn comes after everything of the turn, promises included', async (t) => {
    const order: string[] = []
    const ended = new Promise<void>((resolve) => {
      systemClock.endOfTurn(() => {
        order.push('end')
        resolve()
      })
    })
    process.nextTick(() => { order.push('tick') })
    await Promise.resolve().then(() => { order.push('promise') })
    await ended
    t.strictSame(order.at(-1), 'end')
    t.strictSame(order.length, 3)
  })
})

t.test('sleep', async (t) => {
  t.test('resolves after the time, not before', async (t) => {
    const clock = new ManualClock()
    let awake = false
    void sleep(clock, 100).then(() => { awake = true })
    await clock.advance(99)
    t.equal(awake, false)
    await clock.advance(1)
    t.equal(awake, true)
    t.equal(clock.pending, 0)
  })

  for (const [what, end] of Object.entries({
    'an aborted signal': (controller: AbortController) => { controller.abort() },
    'a promise that resolves': (_: AbortController, resolve: () => void) => { resolve() },
    'a promise that rejects': (_: AbortController, __: () => void, reject: (error: Error) => void) => { reject(new Error('no matter')) }
  })) {
    t.test(`${what} ends it early, and leaves no timer and no listener`, async (t) => {
      const clock = new ManualClock()
      const controller = new AbortController()
      const promise = new Promise<void>((resolve, reject) => { queueMicrotask(() => { end(controller, resolve, reject) }) })
      promise.catch(() => {})
      const sleeping = sleep(clock, 1000, controller.signal, promise)
      await sleeping
      t.equal(clock.pending, 0)
      t.equal(getEventListeners(controller.signal, 'abort').length, 0)
    })
  }

  t.test('a signal that was aborted before ends it at once', async (t) => {
    const clock = new ManualClock()
    await sleep(clock, 1000, AbortSignal.abort())
    t.equal(clock.pending, 0)
  })

  t.test('leaves no listener on a signal, wherever the aborted one stands in the list', async (t) => {
    for (const order of ['first', 'last']) {
      const clock = new ManualClock()
      const { signal } = new AbortController()
      await sleep(clock, 1000, ...(order === 'first' ? [AbortSignal.abort(), signal] : [signal, AbortSignal.abort()]))
      t.equal(getEventListeners(signal, 'abort').length, 0, `the aborted signal is the ${order}`)
    }
  })
})

t.test('limited', async (t) => {
  const late = () => new Error('too late')

  t.test('resolves with what the function returns, plain or promised', async (t) => {
    const clock = new ManualClock()
    t.equal(await limited(clock, 1, () => 7, late), 7)
    t.equal(await limited(clock, 1, async () => 'x', late), 'x')
    t.equal(clock.pending, 0)
  })

  t.test('rejects with what the function throws or rejects with', async (t) => {
    const clock = new ManualClock()
    const mine = new Error('mine')
    await t.rejects(limited(clock, 1, () => { throw mine }, late), mine)
    await t.rejects(limited(clock, 1, () => Promise.reject(mine), late), mine)
    t.equal(clock.pending, 0)
  })

  t.test('rejects at the limit, and the signal is aborted with the same error', async (t) => {
    const clock = new ManualClock()
    let signal: AbortSignal | undefined
    const outcome = limited(clock, 1.5, (given) => {
      signal = given
      return new Promise(() => {})
    }, late).catch((error: unknown) => error)
    await clock.advance(1499)
    t.equal(signal?.aborted, false)
    await clock.advance(1)
    t.equal(signal?.aborted, true)
    t.equal(await outcome, signal?.reason)
    t.match(await outcome, { message: 'too late' })
  })

  t.test('a function that rejects after the limit disturbs nobody', async (t) => {
    const clock = new ManualClock()
    let reject: ((error: Error) => void) | undefined
    const outcome = limited(clock, 1, () => new Promise((_resolve, _reject) => { reject = _reject }), late)
    outcome.catch(() => {})
    await clock.advance(1000)
    reject!(new Error('nobody listens'))
    await turnOfEventLoop()
    await t.rejects(outcome, { message: 'too late' })
  })

  t.test('the signal of a function that has ended in time is never aborted', async (t) => {
    const clock = new ManualClock()
    let signal: AbortSignal | undefined
    await limited(clock, 1, (given) => { signal = given }, late)
    await clock.advance(5000)
    t.equal(signal?.aborted, false)
  })
})
