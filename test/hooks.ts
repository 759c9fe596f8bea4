import t from 'tap'
import { Hooks } from '../lib/hooks.js'
import { Pending } from '../lib/pending.js'
import { type StopContext, type StopHook } from '../types/index.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'

const context: StopContext = { reason: 'SIGTERM', remaining: () => 1000, signal: new AbortController().signal }

function make () {
  const clock = new ManualClock()
  const errors: Array<[string, unknown]> = []
  const pending = new Pending(clock)
  const hooks = new Hooks(pending, (where, error) => { errors.push([where, error]) })
  return { clock, errors, hooks, pending }
}

/** A promise that the test settles. */
function deferred () {
  let resolve!: () => void
  const promise = new Promise<void>((_resolve) => { resolve = _resolve })
  return { promise, resolve }
}

t.test('hooks of a kind run side by side, in order, each with the context', async (t) => {
  const { hooks } = make()
  const calls: unknown[] = []
  hooks.add('onDraining', (given) => { calls.push(['first', given]); return new Promise(() => {}) })
  hooks.add('onDraining', (given) => { calls.push(['second', given]) })
  hooks.add('onClosing', () => { calls.push('of the other kind') })
  hooks.run('onDraining', context)
  t.strictSame(calls, [['first', context], ['second', context]])
})

t.test('a kind runs once', async (t) => {
  const { hooks } = make()
  let calls = 0
  hooks.add('onClosing', () => { calls++ })
  hooks.run('onClosing', context)
  hooks.run('onClosing', context)
  t.equal(calls, 1)
})

t.test('a hook that is added too late runs at once, and is awaited', async (t) => {
  const { hooks, pending } = make()
  hooks.run('onDraining', context)
  const { promise, resolve } = deferred()
  let given: StopContext | undefined
  hooks.add('onDraining', (context) => {
    given = context
    return promise
  })
  t.equal(given, context)
  t.equal(pending.size, 1)
  let isSettled = false
  const settled = pending.settled().then(() => { isSettled = true })
  await turnOfEventLoop()
  t.equal(isSettled, false)
  resolve()
  await settled
  t.equal(pending.size, 0)
})

t.test('a hook that throws or rejects is reported by its name, and the others run', async (t) => {
  const { hooks, errors, pending } = make()
  const calls: string[] = []
  hooks.add('onDraining', function flush () { throw new Error('sync') })
  hooks.add('onDraining', async function stopWorkers () { throw new Error('async') })
  hooks.add('onDraining', () => { calls.push('third') })
  hooks.run('onDraining', context)
  await pending.settled()
  t.match(errors, [['onDraining hook flush', { message: 'sync' }], ['onDraining hook stopWorkers', { message: 'async' }]])
  t.strictSame(calls, ['third'])
})

t.test('settled waits for every hook, also for one that is added meanwhile', async (t) => {
  const { hooks, pending } = make()
  const first = deferred()
  const second = deferred()
  hooks.add('onClosing', () => first.promise)
  hooks.run('onClosing', context)
  let isSettled = false
  const settled = pending.settled().then(() => { isSettled = true })
  hooks.add('onClosing', () => second.promise)
  first.resolve()
  await turnOfEventLoop()
  t.equal(isSettled, false)
  second.resolve()
  await settled
  t.equal(isSettled, true)
})

t.test('settled with nothing to wait for is settled', async (t) => {
  await make().pending.settled()
})

t.test('a hook that is not done is a holder, with its name and its age', async (t) => {
  const { hooks, clock, pending } = make()
  const flush = deferred()
  hooks.add('onClosing', function flushMetrics () { return flush.promise })
  hooks.add('onClosing', () => new Promise(() => {}))
  hooks.run('onClosing', context)
  await clock.advance(1500)
  t.strictSame(pending.holders(), [
    { kind: 'hook', name: 'onClosing hook flushMetrics', ageMs: 1500 },
    { kind: 'hook', name: 'onClosing hook #2', ageMs: 1500 }
  ])
  flush.resolve()
  await clock.settle()
  t.strictSame(pending.holders().map(({ name }) => name), ['onClosing hook #2'])
})

t.test('two hooks of one name are two hooks: both are awaited, both are holders', async (t) => {
  const { hooks, pending } = make()
  const slow = deferred()
  // As two plugins have it that both call theirs `stop`, or one plugin that is registered twice.
  const named = (fn: () => Promise<void>): StopHook => Object.defineProperty(fn, 'name', { value: 'stop' })
  hooks.add('onClosing', named(async () => {}))
  hooks.add('onClosing', named(() => slow.promise))
  hooks.run('onClosing', context)
  t.equal(pending.size, 2)
  await turnOfEventLoop()
  t.equal(pending.size, 1)
  let isSettled = false
  const settled = pending.settled().then(() => { isSettled = true })
  await turnOfEventLoop()
  t.equal(isSettled, false)
  slow.resolve()
  await settled
})

t.test('what is no function is refused, by name', async (t) => {
  const { hooks, pending } = make()
  for (const [value, shown] of [[undefined, 'undefined'], [null, 'null'], ['flush', '"flush"'], [{}, 'an object']] as const) {
    t.throws(() => { hooks.add('onClosing', value as unknown as StopHook) }, {
      code: 'FARGATE_ERR_BAD_ARGUMENT', message: `fastify.shutdown.onClosing() expects a function, got ${shown}.`
    })
  }
  hooks.run('onClosing', context)
  t.equal(pending.size, 0)
})
