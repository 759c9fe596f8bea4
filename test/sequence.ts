import { Server as HttpServer } from 'node:http'
import { type FastifyInstance } from 'fastify'
import t from 'tap'
import { resolveConfig } from '../lib/config.js'
import { Countdown } from '../lib/countdown.js'
import { Holders } from '../lib/holders.js'
import { Hooks } from '../lib/hooks.js'
import { Lifecycle } from '../lib/lifecycle.js'
import { Pending } from '../lib/pending.js'
import { Requests } from '../lib/requests.js'
import { Sequence } from '../lib/sequence.js'
import { Sockets } from '../lib/sockets.js'
import { computeTimeline } from '../lib/timeline.js'
import { WebSockets } from '../lib/websockets.js'
import { Work } from '../lib/work.js'
import { type FargateOptions, type ShutdownReport, type State, type StopContext } from '../types/index.js'
import { ManualClock } from './support/clock.js'
import { memoryLog } from './support/log.js'
import { fakeTraffic } from './support/waiting.js'

/** A sequence with all of its parts; only the sockets and Fastify's own close are none. */
function make (options: FargateOptions = {}, { isListening = true, pluginTimeout = 10_000, forceCloseConnections = 'idle' as boolean | 'idle' } = {}) {
  const clock = new ManualClock()
  const memory = memoryLog()
  const config = resolveConfig(options, {})
  const timeline = computeTimeline(config)
  const sockets = new Sockets(clock, 4000)
  Object.defineProperty(sockets, 'isListening', { value: isListening })
  const server = new HttpServer()
  sockets.track(server, () => {})
  const requests: Requests = new Requests(clock, sockets.connections)
  requests.onEnd = ({ connection }) => { sockets.release(connection) }
  const traffic = fakeTraffic(clock, () => requests, sockets.connections, sockets)
  const countdown = new Countdown(clock, timeline)
  const moves: State[] = []
  const lifecycle = new Lifecycle((_from, to) => { moves.push(to) })
  const fail = (where: string, error: unknown) => { sequence.fail(where, error) }
  const intake = new AbortController()
  const pending = new Pending(clock)
  const hooks = new Hooks(pending, fail)
  const work = new Work({ abortGraceMs: timeline.deadline - timeline.abort, clock, countdown, fail, intake: intake.signal, log: memory.log, pending })
  const closing = new AbortController()
  const webSockets = new WebSockets(clock, timeline.goodbyeGrace)
  const holders = new Holders({ log: memory.log, pending, requests, sockets, webSockets, work })
  const state = { left: 0, closes: 0 }
  /** How WebSocket clients and connections were told to go; `until` is what that waits for. */
  const farewells: { webSockets: unknown[], sockets: boolean[], until: Promise<void> } = { webSockets: [], sockets: [], until: Promise.resolve() }
  webSockets.announce = (windowMs, hurry, isLast) => {
    farewells.webSockets.push({ windowMs, isLast, hurries: hurry === countdown.abort, state: lifecycle.state })
    return farewells.until
  }
  const releaseAll = sockets.releaseAll.bind(sockets)
  sockets.releaseAll = (takeOver) => {
    farewells.sockets.push(takeOver)
    return releaseAll(takeOver)
  }
  /** What the application does in its own hooks. */
  const application: { onClose: () => Promise<void> | void } = { onClose () {} }
  const fastify = {
    initialConfig: { forceCloseConnections, pluginTimeout },
    // As avvio does it: later, and once.
    close: async () => {
      state.closes++
      await null
      await sequence.preClose()
      await application.onClose()
      await new Promise((resolve) => { server.close(resolve) })
      await sequence.closed()
    }
  } as unknown as FastifyInstance
  const sequence: Sequence = new Sequence({
    clock, closing, config, countdown, fastify, holders, hooks, intake, leave: () => { state.left++ }, lifecycle, log: memory.log, pending, requests, sockets, timeline, webSockets, work
  })
  lifecycle.move('ready', '')
  moves.length = 0
  /** Begins, and remembers the report. */
  const run = (waits = true, reason = 'SIGTERM') => {
    const outcome: { report?: ShutdownReport } = {}
    void sequence.run({ reason, waits }).then((report) => { outcome.report = report })
    return outcome
  }
  return { ...memory, application, clock, closing, countdown, farewells, fastify, hooks, intake, lifecycle, moves, requests, run, sequence, sockets, state, timeline, traffic, work }
}

const never = () => new Promise<void>(() => {})

t.test('a stop', async (t) => {
  t.test('drains, closes and has closed, each once, and reports', async (t) => {
    const { clock, moves, run, state, of, lines } = make({ deregistration: 'delay', deregistrationDelay: 10 })
    const outcome = run()
    t.strictSame(moves, ['draining'], 'at once')
    await clock.advance(9999)
    t.strictSame(moves, ['draining'])
    t.equal(state.closes, 0)
    await clock.advance(1)
    t.strictSame(moves, ['draining', 'closing', 'closed'])
    t.equal(state.closes, 1)
    t.strictSame(outcome.report, {
      reason: 'SIGTERM',
      exitCode: 0,
      order: 'unknown',
      drainEnded: 'the whole deregistration delay of 10 s was waited for',
      durations: { drainingMs: 10_000, closingMs: 0, closeMs: 0, totalMs: 10_000 },
      requests: { inFlightAtSignal: 0, servedWhileDraining: 0, lastAfterMs: null },
      cut: [],
      cutCount: 0,
      errors: [],
      stopTimeoutMs: 30_000,
      deadlineMs: 28_000
    })
    t.equal(lines.at(-1)?.report.reason, 'SIGTERM', 'the report is the last line')
    t.equal(of('info').length, 4)
    t.match(of('info')[0], /^SIGTERM: draining, with 0 in flight\. .* Draining ends after 20 s at the latest, the deadline is in 28 s$/)
    t.equal(of('info')[1], 'draining, 5 s after SIGTERM: waiting for the load balancer; draining ends in 15 s at the latest, the deadline is in 23 s')
    t.match(of('info')[2], 'closing, 10 s after SIGTERM: the whole deregistration delay of 10 s was waited for. 0 in flight')
    t.equal(clock.pending + clock.background, 0)
    t.equal(state.left, 1)
  })

  t.test('while draining nothing else is done: requests are served, and counted', async (t) => {
    const { clock, run, traffic, state } = make({ deregistration: 'delay' })
    const early = traffic.request()
    clock.skip(50)
    const outcome = run()
    await clock.advance(1000)
    early.end()
    for (let i = 0; i < 3; i++) {
      const request = traffic.request()
      await clock.advance(10)
      request.end()
    }
    t.equal(state.closes, 0)
    await clock.advance(20_000)
    t.match(outcome.report, {
      exitCode: 0,
      order: 'signal-first',
      requests: { inFlightAtSignal: 1, servedWhileDraining: 3, lastAfterMs: 1020 }
    })
  })

  t.test('waits until every request has its answer before it closes Fastify', async (t) => {
    const { clock, run, traffic, state } = make({ deregistration: 'none' })
    const request = traffic.request()
    const outcome = run()
    await clock.advance(5000)
    t.equal(state.closes, 0)
    request.end()
    await clock.settle()
    t.equal(state.closes, 1)
    t.match(outcome.report, { exitCode: 0, durations: { drainingMs: 0, closingMs: 5000, closeMs: 0, totalMs: 5000 } })
    t.equal(clock.pending, 0)
  })

  t.test('a response that has begun does not keep Fastify from closing: its plugin ends it in preClose', async (t) => {
    const { clock, run, traffic, state, application } = make({ deregistration: 'none' })
    const stream = traffic.request()
    const outcome = run()
    await clock.advance(1000)
    stream.begin()
    await clock.advance(99)
    const closes = state.closes
    application.onClose = () => { stream.end() }
    await clock.advance(1)
    t.strictSame([closes, state.closes], [0, 1], 'it is looked at ten times a second')
    t.match(outcome.report, { exitCode: 0, cut: [] })
  })

  t.test('without a listener nothing can come, and nothing is waited for', async (t) => {
    const { clock, run, moves } = make({ deregistration: 'delay' }, { isListening: false })
    const outcome = run()
    await clock.settle()
    t.strictSame(moves, ['draining', 'closing', 'closed'])
    t.match(outcome.report, { exitCode: 0, drainEnded: 'nothing listens here', durations: { totalMs: 0 } })
  })

  t.test('that wants no wait goes from ready to closing', async (t) => {
    const { clock, run, moves } = make({ deregistration: 'delay' })
    const outcome = run(false, 'SIGINT')
    await clock.settle()
    t.strictSame(moves, ['closing', 'closed'])
    t.match(outcome.report, { reason: 'SIGINT', drainEnded: 'no wait for the load balancer was wanted', order: 'unknown' })
  })

  t.test('a second call returns the same promise', async (t) => {
    const { clock, sequence, state } = make({ deregistration: 'delay', deregistrationDelay: 10 })
    const first = sequence.run({ reason: 'SIGTERM', waits: true })
    t.equal(sequence.run({ reason: 'again', waits: true }), first)
    await clock.advance(20_000)
    t.match(await first, { reason: 'SIGTERM', drainEnded: 'the whole deregistration delay of 10 s was waited for' })
    t.equal(state.closes, 1)
  })

  t.test('a second call that wants no wait ends the waiting', async (t) => {
    const { clock, run, state } = make({ deregistration: 'delay' })
    const outcome = run()
    await clock.advance(1000)
    run(false, 'SIGINT')
    await clock.settle()
    t.equal(state.closes, 1)
    t.match(outcome.report, { reason: 'SIGTERM', drainEnded: 'SIGINT came', durations: { drainingMs: 1000 } })
  })
})

t.test('the order that was seen', async (t) => {
  const busy = (made: ReturnType<typeof make>, seconds: number) => {
    for (let i = 0; i < seconds * 10; i++) {
      made.traffic.request().end()
      made.clock.skip(100)
    }
  }

  t.test('deregistered-first: the silence that ended draining had begun before the signal', async (t) => {
    const made = make()
    busy(made, 300)
    made.clock.skip(4000)
    const outcome = made.run()
    await made.clock.settle()
    t.match(outcome.report, { order: 'deregistered-first', drainEnded: /^no request for 4\.1 s/, durations: { totalMs: 0 }, requests: { lastAfterMs: null } })
  })

  t.test('signal-first: requests came after it', async (t) => {
    const made = make()
    busy(made, 300)
    const outcome = made.run()
    for (let i = 0; i < 10; i++) {
      await made.clock.advance(100)
      made.traffic.request().end()
    }
    await made.clock.advance(3000)
    t.match(outcome.report, { order: 'signal-first', drainEnded: /^no request for 3 s/, requests: { servedWhileDraining: 10, lastAfterMs: 1000 }, durations: { drainingMs: 4000 } })
  })

  t.test('a request just before the signal came before it, on a clock that never stands still', async (t) => {
    const made = make({ deregistration: 'none' })
    const { now } = made.clock
    let readings = 0
    t.intercept(made.clock, 'now', { value: () => now() + ++readings / 1000 })
    made.traffic.request().end()
    made.clock.skip(5)
    const outcome = made.run()
    await made.clock.settle()
    t.match(outcome.report, { order: 'unknown', requests: { servedWhileDraining: 0, lastAfterMs: null } })
  })

  t.test('unknown: the window had to pass', async (t) => {
    const made = make({ deregistrationDelay: 10 })
    busy(made, 1)
    const outcome = made.run()
    await made.clock.advance(10_000)
    t.match(outcome.report, { order: 'unknown', drainEnded: /^the deregistration window of 10 s has passed/ })
  })

  t.test('whatever the strategy waits for, draining ends at the drain limit, which says when the last request came', async (t) => {
    for (const [before, drainEnded] of [
      [() => {}, 'the drain limit of 20 s was reached; no request ever came'],
      [(made: ReturnType<typeof make>) => { made.traffic.request().end() }, 'the drain limit of 20 s was reached; the last request came 20 s before']
    ] as const) {
      let signal!: AbortSignal
      const made = make({ deregistration: (_context, given) => { signal = given; return never() as never } })
      before(made)
      const outcome = made.run()
      await made.clock.advance(19_999)
      t.equal(made.lifecycle.state, 'draining')
      t.equal(signal.aborted, false)
      await made.clock.advance(1)
      t.equal(signal.aborted, true, 'the strategy is told')
      t.match(outcome.report, { drainEnded, order: 'unknown' })
    }
  })
})

t.test('hooks', async (t) => {
  t.test('onDraining runs when draining begins, onClosing when closing begins, with the intake over already', async (t) => {
    const { clock, hooks, intake, run, lifecycle } = make({ deregistration: 'delay' })
    const calls: unknown[] = []
    const hook = (name: string) => (context: StopContext) => {
      calls.push([name, lifecycle.state, context.reason, context.remaining(), context.signal.aborted, intake.signal.aborted])
    }
    hooks.add('onDraining', hook('onDraining'))
    hooks.add('onClosing', hook('onClosing'))
    run()
    t.strictSame(calls, [['onDraining', 'draining', 'SIGTERM', 28_000, false, true]])
    t.match(intake.signal.reason, { message: 'The service stops: SIGTERM' })
    await clock.advance(20_000)
    t.strictSame(calls.slice(1), [['onClosing', 'closing', 'SIGTERM', 8000, false, true]])
  })

  t.test('without a wait both run, onDraining first', async (t) => {
    const { clock, hooks, run } = make()
    const calls: string[] = []
    hooks.add('onClosing', () => { calls.push('onClosing') })
    hooks.add('onDraining', () => { calls.push('onDraining') })
    run(false)
    await clock.settle()
    t.strictSame(calls, ['onDraining', 'onClosing'])
  })

  t.test('both kinds are awaited before fastify.close()', async (t) => {
    for (const kind of ['onDraining', 'onClosing'] as const) {
      const { clock, hooks, run, state, traffic } = make({ deregistration: 'none' })
      let end!: () => void
      hooks.add(kind, () => new Promise<void>((resolve) => { end = resolve }))
      const request = traffic.request()
      const outcome = run()
      await clock.advance(2000)
      request.end()
      await clock.advance(1000)
      t.equal(state.closes, 0, kind)
      end()
      await clock.settle()
      t.equal(state.closes, 1, kind)
      t.match(outcome.report, { exitCode: 0, durations: { closingMs: 3000 } })
    }
  })

  t.test('one that fails is named in the report, and the stop goes on with exit code 1', async (t) => {
    const { clock, hooks, run, state, of, lines } = make({ deregistration: 'none' })
    hooks.add('onClosing', async function flush () { throw Object.assign(new Error('disk full'), { code: 'ENOSPC' }) })
    const outcome = run()
    await clock.settle()
    t.equal(state.closes, 1)
    t.match(outcome.report, { exitCode: 1, cut: [], errors: [{ where: 'onClosing hook flush', message: 'disk full', code: 'ENOSPC' }] })
    t.match(of('error'), ['onClosing hook flush: disk full. The exit code will be 1', /^stopped 0 s after SIGTERM/])
    t.match(lines.find(({ level }) => level === 'error'), { err: { code: 'ENOSPC' } })
  })

  t.test('one that hangs is told at the abort mark, and named and left at the deadline', async (t) => {
    const { clock, hooks, run, state } = make({ deregistration: 'none' })
    let signal!: AbortSignal
    hooks.add('onClosing', function flush (context) {
      signal = context.signal
      return never()
    })
    const outcome = run()
    await clock.advance(25_199)
    t.equal(signal.aborted, false)
    await clock.advance(1)
    t.equal(signal.aborted, true)
    await clock.advance(2800)
    t.equal(state.closes, 1, 'Fastify gets its chance')
    t.match(outcome.report, { exitCode: 1, cut: [{ kind: 'hook', name: 'onClosing hook flush', ageMs: 28_000 }] })
    t.equal(clock.pending, 0)
  })
})

t.test('errors', async (t) => {
  t.test('a close that rejects is one, and the stop is over', async (t) => {
    const { application, clock, run, state } = make({ deregistration: 'none' })
    application.onClose = () => Promise.reject(new Error('pool'))
    const outcome = run()
    await clock.settle()
    t.match(outcome.report, { exitCode: 1, errors: [{ where: 'fastify.close()', message: 'pool' }] })
    t.equal(state.left, 1)
  })

  t.test('what was thrown need not be an Error; a code that is no text is left out', async (t) => {
    const { clock, run, sequence } = make({ deregistration: 'none' })
    sequence.fail('a', 'text')
    sequence.fail('b', undefined)
    sequence.fail('c', Object.assign(new Error('x'), { code: 7 }))
    const outcome = run()
    await clock.settle()
    t.strictSame(outcome.report?.errors, [{ where: 'a', message: 'text' }, { where: 'b', message: 'undefined' }, { where: 'c', message: 'x' }])
    t.equal(outcome.report?.exitCode, 1)
  })
})

t.test('the deadline', async (t) => {
  t.test('cuts off what is in flight: named in the log and in the report, exit code 1', async (t) => {
    const { clock, run, traffic, of, lines, sockets } = make({ deregistration: 'none' })
    const { req } = traffic.request()
    Object.assign(req, { url: '/reports/7?secret' })
    const outcome = run()
    await clock.advance(27_999)
    t.equal(sockets.connections.size, 1)
    await clock.advance(1)
    t.equal(sockets.connections.size, 0)
    t.match(outcome.report, { exitCode: 1, cut: [{ kind: 'request', name: 'GET /reports/7', ageMs: 28_000 }], durations: { totalMs: 28_000 } })
    t.match(of('error')[0], 'the deadline of 28 s is reached; cut off: GET /reports/7 (28 s)')
    t.equal(lines.find(({ holders }) => holders !== undefined)?.holders.length, 1)
    t.equal(clock.pending, 0)
  })

  t.test('cuts off connections that nobody asks anything on', async (t) => {
    const { application, clock, run, traffic } = make({ deregistration: 'none' })
    application.onClose = never
    traffic.connect(2)
    const outcome = run()
    await clock.advance(28_500)
    t.match(outcome.report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'connection', name: 'a connection without a request', remoteAddress: '10.0.0.1' }] })
  })

  t.test('else it is a hook of Fastify\'s that hangs', async (t) => {
    const { application, clock, run } = make({ deregistration: 'delay', deregistrationDelay: 1 })
    application.onClose = never
    const outcome = run()
    await clock.advance(28_499)
    t.equal(outcome.report, undefined, 'half of what is left to the backstop may still be used')
    await clock.advance(1)
    t.match(outcome.report, { exitCode: 1, cut: [{ kind: 'hook', name: 'a preClose or onClose hook', ageMs: 27_000 }], durations: { closeMs: 27_500 } })
    t.equal(clock.pending, 0)
  })
})

t.test('a hook that blocks the event loop', async (t) => {
  t.test('holds its deadline\'s timer too, and is named all the same', async (t) => {
    const { application, clock, run } = make({ deregistration: 'none' })
    const { now } = clock
    application.onClose = () => { t.intercept(clock, 'now', { value: () => now() + 28_000 }) }
    const outcome = run()
    await clock.settle()
    t.match(outcome.report, { exitCode: 1, cut: [{ kind: 'hook', name: 'a preClose or onClose hook', ageMs: 28_000 }] })
  })
})

t.test('connections and WebSocket clients', async (t) => {
  t.test('are told to go when closing begins, before fastify.close(), which waits for both', async (t) => {
    const { clock, closing, farewells, run, sockets, state } = make({ deregistration: 'delay', deregistrationDelay: 1, websocketPace: 3 })
    let isReleased!: () => void
    sockets.releaseAll = () => new Promise<void>((resolve) => { isReleased = resolve })
    let isTold!: () => void
    farewells.until = new Promise((resolve) => { isTold = resolve })
    run()
    await clock.advance(999)
    t.strictSame(farewells.webSockets, [])
    t.equal(closing.signal.aborted, false)
    await clock.advance(1)
    t.strictSame(farewells.webSockets, [{ windowMs: 3000, isLast: true, hurries: true, state: 'closing' }])
    t.match(closing.signal.reason, { message: 'The service closes: the whole deregistration delay of 1 s was waited for' })
    isReleased()
    await clock.settle()
    t.equal(state.closes, 0)
    isTold()
    await clock.settle()
    t.equal(state.closes, 1)
    t.equal(farewells.webSockets.length, 1, 'once')
  })

  t.test('fastify.close() waits for connections too that are told to go', async (t) => {
    const { clock, run, sockets, state } = make({ deregistration: 'none' })
    let isReleased!: () => void
    sockets.releaseAll = () => new Promise<void>((resolve) => { isReleased = resolve })
    run()
    await clock.settle()
    t.equal(state.closes, 0)
    isReleased()
    await clock.settle()
    t.equal(state.closes, 1)
  })

  t.test('the plugin closes the connections itself', async (t) => {
    const { clock, farewells, run } = make({ deregistration: 'none' })
    run()
    await clock.settle()
    t.strictSame(farewells.sockets, [true])
  })

  t.test('nobody is told for longer than to the abort mark', async (t) => {
    const { clock, farewells, run } = make({ deregistration: 'delay', deregistrationDelay: 5, websocketPace: 120 })
    run()
    await clock.advance(5000)
    t.match(farewells.webSockets, [{ windowMs: 20_200 }])
  })

  t.test('a goodbye that does not end is waited for until the deadline', async (t) => {
    const { clock, farewells, run } = make({ deregistration: 'none' })
    farewells.until = never()
    const outcome = run()
    await clock.advance(27_999)
    t.equal(outcome.report, undefined)
    await clock.advance(1)
    t.match(outcome.report, { durations: { totalMs: 28_000 } })
  })

  t.test('with websocketClose draining they are told right after the signal, and the rest when closing begins', async (t) => {
    const { clock, farewells, run } = make({ deregistration: 'delay', deregistrationDelay: 1, websocketClose: 'draining' })
    run()
    t.match(farewells.webSockets, [{ isLast: false, state: 'draining' }])
    await clock.advance(1000)
    t.match(farewells.webSockets, [{}, { isLast: true, state: 'closing' }])
  })

  t.test('with websocketClose none the application does it', async (t) => {
    const { clock, farewells, run } = make({ deregistration: 'delay', deregistrationDelay: 1, websocketClose: 'none' })
    run()
    await clock.advance(1000)
    const plain = make({ websocketClose: 'none' })
    void plain.fastify.close()
    await plain.clock.settle()
    t.strictSame([...farewells.webSockets, ...plain.farewells.webSockets], [])
  })

  t.test('when the application calls fastify.close() they are told at once', async (t) => {
    const { clock, closing, farewells, fastify } = make({ websocketPace: 3 })
    void fastify.close()
    await clock.settle()
    t.strictSame(farewells.webSockets, [{ windowMs: 0, isLast: true, hurries: true, state: 'closing' }])
    t.strictSame(farewells.sockets, [true])
    t.match(closing.signal.reason, { message: 'The service closes: fastify.close() was called' })
  })

  t.test('when it does so while draining they are told once', async (t) => {
    const { clock, farewells, fastify, run } = make({ deregistration: 'delay' })
    run()
    await clock.advance(1000)
    void fastify.close()
    await clock.settle()
    t.match(farewells.webSockets, [{ windowMs: 0, isLast: true }])
    t.equal(farewells.webSockets.length, 1)
  })

  t.test('an application that wants its connections closed by force gets that', async (t) => {
    const { clock, farewells, fastify } = make({}, { forceCloseConnections: true })
    void fastify.close()
    await clock.settle()
    t.strictSame(farewells.sockets, [false])
  })

  t.test('at the limit for streams the log says which limit that was', async (t) => {
    const { clock, of, run, traffic } = make({ deregistration: 'none' })
    const { res, begin } = traffic.request()
    Object.assign(res, { chunkedEncoding: true })
    begin()
    run()
    await clock.advance(26_600)
    t.match(of('error'), [/^the limit for streams of 26\.6 s is reached; cut off: GET \/ \(26\.6 s\)$/])
  })
})

t.test('hasten: a second stop signal', async (t) => {
  t.test('ends draining, fires the abort mark, and leaves the abort grace', async (t) => {
    const { clock, countdown, run, sequence, traffic, of, state } = make({ deregistration: 'delay' })
    traffic.request()
    const outcome = run()
    await clock.advance(1000)
    sequence.hasten('SIGTERM came as a second stop signal')
    t.equal(countdown.abort.aborted, true)
    t.match(of('warn'), ['SIGTERM came as a second stop signal: draining ends now, what is left has 2.8 s'])
    await clock.settle()
    t.equal(state.closes, 1, 'preClose hooks have their turn, and the request is still waited for')
    await clock.advance(2799)
    t.equal(outcome.report, undefined)
    await clock.advance(1)
    t.match(outcome.report, { exitCode: 1, drainEnded: 'SIGTERM came as a second stop signal', durations: { drainingMs: 1000, totalMs: 3800 }, cut: [{ name: 'GET /' }] })
  })

  t.test('what ends in time is not lost', async (t) => {
    const { clock, run, sequence, traffic } = make({ deregistration: 'delay' })
    const request = traffic.request()
    const outcome = run()
    sequence.hasten('again')
    await clock.advance(1000)
    request.end()
    await clock.settle()
    t.match(outcome.report, { exitCode: 0, cut: [] })
    t.equal(clock.pending, 0)
  })
})

t.test('giveUp: the process exits now', async (t) => {
  t.test('while draining: it says who held it, and reports at once', async (t) => {
    const { run, sequence, traffic, clock, lines, moves, state } = make({ deregistration: 'delay' })
    traffic.request()
    run()
    await clock.advance(1500)
    sequence.giveUp('SIGINT came again')
    t.strictSame(moves, ['draining', 'closing', 'closed'])
    t.match(lines.at(-1)?.report, {
      exitCode: 1, drainEnded: 'SIGINT came again', cut: [{ name: 'GET /' }], durations: { drainingMs: 1500, closingMs: 0, closeMs: 0, totalMs: 1500 }
    })
    t.equal(state.left, 1)
  })

  t.test('while closing, with nothing in flight, it is a hook', async (t) => {
    const { application, run, sequence, clock, lines } = make({ deregistration: 'none' })
    application.onClose = never
    run()
    await clock.advance(700)
    sequence.giveUp('late')
    t.match(lines.at(-1)?.report, { exitCode: 1, drainEnded: /^deregistration is none/, cut: [{ kind: 'hook', ageMs: 700 }], durations: { closeMs: 700 } })
    t.equal(clock.pending, 0)
  })

  t.test('after the cut the holders stay those that were cut', async (t) => {
    const { application, run, sequence, clock, lines, traffic } = make({ deregistration: 'none' })
    application.onClose = never
    traffic.request()
    run()
    await clock.advance(28_100)
    sequence.giveUp('the backstop')
    t.match(lines.at(-1)?.report.cut, [{ name: 'GET /' }])
  })

  t.test('after the end it changes nothing', async (t) => {
    const { run, sequence, clock, lines, state } = make({ deregistration: 'none' })
    run()
    await clock.settle()
    const { length } = lines
    sequence.giveUp('late')
    t.equal(lines.length, length)
    t.equal(state.left, 1)
  })

  t.test('what ends after it is not reported once more', async (t) => {
    const { application, run, sequence, clock, lines, state } = make({ deregistration: 'none' })
    let end!: () => void
    application.onClose = () => new Promise<void>((resolve) => { end = resolve })
    run()
    await clock.settle()
    sequence.giveUp('late')
    const { length } = lines
    end()
    await clock.settle()
    t.equal(lines.length, length)
    t.equal(state.left, 1)
  })

  t.test('a stop that was given up does not go on behind the report', async (t) => {
    const { run, sequence, clock, lines, state } = make({ deregistration: 'delay' })
    const rejected: unknown[] = []
    const listener = (error: unknown) => { rejected.push(error) }
    process.on('unhandledRejection', listener)
    run()
    sequence.giveUp('SIGINT came again')
    const { length } = lines
    await clock.advance(60_000)
    process.off('unhandledRejection', listener)
    t.strictSame(rejected, [])
    t.equal(lines.length, length)
    t.equal(state.left, 1)
  })
})

t.test('the application calls fastify.close() itself', async (t) => {
  t.test('while ready: at once, with both kinds of hooks, without a wait', async (t) => {
    const { clock, fastify, hooks, moves, lines, intake, state } = make({ deregistration: 'delay' })
    const calls: string[] = []
    hooks.add('onClosing', ({ reason }) => { calls.push(`onClosing ${reason}`) })
    hooks.add('onDraining', ({ reason }) => { calls.push(`onDraining ${reason}`) })
    const closed = fastify.close()
    await clock.settle()
    await closed
    t.strictSame(moves, ['closing', 'closed'])
    t.strictSame(calls, ['onDraining fastify.close()', 'onClosing fastify.close()'])
    t.equal(intake.signal.aborted, true)
    t.match(lines, [{ report: { reason: 'fastify.close()', exitCode: 0, drainEnded: 'fastify.close() was called' } }])
    t.equal(state.left, 1)
    t.equal(clock.pending, 0)
  })

  t.test('its hooks are awaited, but not for longer than Fastify gives a preClose hook', async (t) => {
    const { clock, fastify, hooks, application, state, lines } = make({}, { pluginTimeout: 3000 })
    hooks.add('onDraining', never)
    let isPast = false
    application.onClose = () => { isPast = true }
    const closed = fastify.close()
    await clock.advance(2499)
    t.equal(isPast, false)
    await clock.advance(1)
    t.equal(isPast, true)
    await closed
    t.equal(state.left, 1)
    t.match(lines.at(-1)?.report.errors, [{ where: 'onDraining hook never', message: 'onDraining hook never took longer than 2.5 s.' }])
  })

  t.test('where Fastify gives a hook all the time of the world, the deadline is the bound', async (t) => {
    const { clock, fastify, hooks, application } = make({ deregistration: 'none' }, { pluginTimeout: 0 })
    let end!: () => void
    hooks.add('onClosing', () => new Promise<void>((resolve) => { end = resolve }))
    let isPast = false
    application.onClose = () => { isPast = true }
    const closed = fastify.close()
    await clock.advance(20_000)
    t.equal(isPast, false)
    end()
    await clock.settle()
    t.equal(isPast, true)
    await closed
  })

  t.test('what is in flight has until the deadline', async (t) => {
    const { application, clock, fastify, traffic, lines, of, sockets } = make()
    application.onClose = async () => {
      while (sockets.connections.size > 0) await new Promise((resolve) => { setImmediate(resolve) })
    }
    traffic.request()
    const closed = fastify.close()
    await clock.advance(27_999)
    t.equal(sockets.connections.size, 1)
    await clock.advance(1)
    await closed
    t.match(lines.at(-1), { report: { exitCode: 1, cut: [{ name: 'GET /' }] } })
    t.equal(of('error')[0], 'the deadline of 28 s is reached; cut off: GET / (28 s)')
    t.equal(clock.pending, 0)
  })

  t.test('while draining: the wait is over, with a warning', async (t) => {
    const { clock, fastify, run, moves, of } = make({ deregistration: 'delay' })
    const outcome = run()
    await clock.advance(1000)
    void fastify.close()
    await clock.settle()
    t.match(of('warn'), ['fastify.close() was called by the application while draining: from now on requests are answered 503'])
    t.strictSame(moves, ['draining', 'closing', 'closed'])
    t.match(outcome.report, { reason: 'SIGTERM', exitCode: 0, drainEnded: 'fastify.close() was called', durations: { drainingMs: 1000 } })
  })

  t.test('while closing: nothing new', async (t) => {
    const { clock, fastify, run, traffic, moves, of } = make({ deregistration: 'none' })
    const request = traffic.request()
    const outcome = run()
    await clock.advance(1000)
    void fastify.close()
    await clock.settle()
    t.strictSame(moves, ['draining', 'closing'])
    request.end()
    await clock.settle()
    t.strictSame(moves, ['draining', 'closing', 'closed'])
    t.match(outcome.report, { exitCode: 0, reason: 'SIGTERM' })
    t.strictSame(of('warn'), [])
  })

  t.test('a signal meanwhile sees it through, and does not begin anew', async (t) => {
    const { application, clock, fastify, moves, run, lines, state } = make({ deregistration: 'delay' })
    let end!: () => void
    application.onClose = () => new Promise<void>((resolve) => { end = resolve })
    void fastify.close()
    await clock.advance(1000)
    const outcome = run()
    await clock.advance(1000)
    t.equal(outcome.report, undefined)
    end()
    await clock.settle()
    end()
    await clock.settle()
    t.match(outcome.report, { reason: 'fastify.close()', exitCode: 0, drainEnded: 'fastify.close() was called', durations: { totalMs: 2000 } })
    t.strictSame(moves, ['closing', 'closed'])
    t.equal(lines.filter(({ report }) => report !== undefined).length, 1)
    t.equal(state.left, 1)
  })

  t.test('a stop after it has its report, and does nothing', async (t) => {
    const { clock, fastify, run, state } = make({ deregistration: 'delay' })
    void fastify.close()
    await clock.settle()
    const outcome = run()
    await clock.settle()
    t.match(outcome.report, { reason: 'fastify.close()', exitCode: 0 })
    t.equal(state.closes, 1)
    t.equal(state.left, 1)
  })
})

t.test('background work', async (t) => {
  const deferred = () => {
    let resolve!: () => void
    const promise = new Promise<void>((_resolve) => { resolve = _resolve })
    return { promise, resolve }
  }

  t.test('stops taking in, ends, and only then Fastify closes', async (t) => {
    const { application, clock, lifecycle, run, state, work } = make({ deregistration: 'none' })
    const calls: string[] = []
    const job = deferred()
    const drained = deferred()
    void work.run('nightly', () => job.promise)
    work.addWorker({ name: 'orders', stop () { calls.push(`stop while ${lifecycle.state}`) }, drain: () => drained.promise })
    application.onClose = () => { calls.push('pool') }
    const outcome = run()
    t.strictSame(calls, ['stop while draining'])
    await clock.advance(3000)
    drained.resolve()
    await clock.advance(1000)
    t.equal(state.closes, 0)
    job.resolve()
    await clock.settle()
    t.strictSame(calls, ['stop while draining', 'pool'])
    t.match(outcome.report, { exitCode: 0, durations: { closingMs: 4000 } })
    t.equal(clock.pending, 0)
  })

  t.test('that still runs at the deadline is named, and the exit code is 1', async (t) => {
    const { clock, of, run, work } = make({ deregistration: 'none' })
    void work.run('nightly', never)
    work.addWorker({ name: 'orders', stop: never, active: () => 3 })
    const outcome = run()
    await clock.advance(28_000)
    t.match(outcome.report, { exitCode: 1, cut: [{ kind: 'job', name: 'job nightly', ageMs: 28_000 }, { kind: 'worker', name: 'worker orders, 3 active' }] })
    t.equal(of('info').filter((text) => text.startsWith('closing, ')).length, 6, 'the log said so every five seconds')
    t.equal(of('info')[2], 'closing, 5 s after SIGTERM: waiting for job nightly (5 s), worker orders, 3 active (5 s); the deadline is in 23 s')
    t.equal(clock.pending, 0)
  })

  t.test('with a timeout of its own holds the stop no longer than that', async (t) => {
    const { clock, of, run, work } = make({ deregistration: 'none' })
    void work.run('nightly', never, { timeout: 5 })
    const outcome = run()
    await clock.advance(5000)
    t.match(outcome.report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'job', name: 'job nightly' }], durations: { totalMs: 5000 } })
    t.match(of('error')[0], 'job nightly has its timeout of 5 s behind it; cut off: job nightly (5 s)')
  })

  t.test('that fails makes the exit code 1', async (t) => {
    const { clock, run, work } = make({ deregistration: 'none' })
    const job = deferred()
    void work.run('nightly', async () => { await job.promise; throw new Error('disk full') })
    const outcome = run()
    job.resolve()
    await clock.settle()
    t.match(outcome.report, { exitCode: 1, cut: [], errors: [{ where: 'job nightly', message: 'disk full' }] })
  })

  t.test('that an onClose hook begins is waited for too', async (t) => {
    const { application, clock, run, work } = make({ deregistration: 'none' })
    const flush = deferred()
    application.onClose = () => { work.waitUntil('flush', flush.promise) }
    const outcome = run()
    await clock.advance(2000)
    t.equal(outcome.report, undefined)
    flush.resolve()
    await clock.settle()
    t.match(outcome.report, { exitCode: 0, durations: { closeMs: 2000 } })
  })

  t.test('is told at the second signal, and has the abort grace', async (t) => {
    const { clock, run, sequence, work } = make({ deregistration: 'delay' })
    const result = work.run('nightly', ({ abortSignal }) => new Promise<void>((resolve) => { abortSignal.addEventListener('abort', () => { resolve() }) }))
    const outcome = run()
    await clock.advance(1000)
    sequence.hasten('again')
    await result
    await clock.settle()
    t.match(outcome.report, { exitCode: 0, durations: { totalMs: 1000 } })
  })

  t.test('is ended by a plain fastify.close() too, within what Fastify gives a preClose hook', async (t) => {
    const { application, clock, fastify, intake, lines, work } = make({}, { pluginTimeout: 3000 })
    let isStopped = false
    work.addWorker({ name: 'orders', stop () { isStopped = true } })
    const job = deferred()
    void work.run('short', () => job.promise)
    void work.run('long', never)
    let isPast = false
    application.onClose = () => { isPast = true }
    void fastify.close()
    await clock.settle()
    t.strictSame([isStopped, intake.signal.aborted, isPast], [true, true, false])
    job.resolve()
    await clock.advance(2500)
    t.equal(isPast, true)
    t.match(lines.at(-1)?.report.errors, [{ where: 'job long', message: 'job long took longer than 2.5 s.' }])
    t.equal(clock.pending, 0)
  })

  t.test('that an onClose hook begins and nobody ends is waited for until the deadline', async (t) => {
    const { application, clock, run, work } = make({ deregistration: 'none' })
    application.onClose = () => { work.waitUntil('flush', never()) }
    const outcome = run()
    await clock.advance(27_999)
    t.equal(outcome.report, undefined)
    await clock.advance(1)
    t.match(outcome.report, { exitCode: 1, cutCount: 1, cut: [{ kind: 'job', name: 'job flush', ageMs: 28_000 }] })
    t.equal(clock.pending, 0)
  })

  t.test('is refused once the stop has begun, which is no failure of the stop', async (t) => {
    const { clock, run, work } = make({ deregistration: 'delay' })
    const outcome = run()
    await t.rejects(work.run('late', never), { code: 'FARGATE_ERR_DRAINING' })
    await clock.advance(20_000)
    t.match(outcome.report, { exitCode: 0, cut: [], errors: [] })
  })

  t.test('a worker that fails is named, its fellow still ends, and the exit code is 1', async (t) => {
    const { clock, run, state, work } = make({ deregistration: 'none' })
    const drained = deferred()
    work.addWorker({ name: 'orders', stop () { throw new Error('not connected') } })
    work.addWorker({ name: 'orders', stop () {}, drain: () => drained.promise })
    const outcome = run()
    await clock.advance(1000)
    t.equal(state.closes, 0)
    drained.resolve()
    await clock.settle()
    t.match(outcome.report, { exitCode: 1, cut: [], errors: [{ where: 'worker orders: stop', message: 'not connected' }], durations: { totalMs: 1000 } })
  })

  t.test('without a wait is stopped too, before onClosing', async (t) => {
    const { clock, hooks, run, work } = make()
    const calls: string[] = []
    hooks.add('onClosing', () => { calls.push('onClosing') })
    work.addWorker({ name: 'orders', stop ({ reason }) { calls.push(`stop: ${reason}`) } })
    run(false, 'SIGINT')
    await clock.settle()
    t.strictSame(calls, ['stop: SIGINT', 'onClosing'])
  })

  t.test('is stopped once when the application calls fastify.close() while draining', async (t) => {
    const { clock, fastify, run, work } = make({ deregistration: 'delay' })
    let stops = 0
    work.addWorker({ name: 'orders', stop () { stops++ } })
    const outcome = run()
    await clock.advance(1000)
    void fastify.close()
    await clock.settle()
    t.equal(stops, 1)
    t.match(outcome.report, { exitCode: 0, drainEnded: 'fastify.close() was called' })
  })

  t.test('that has not ended at the end of a plain fastify.close() leaves no timer of its timeout', async (t) => {
    const { clock, fastify, lines, work } = make({}, { pluginTimeout: 3000 })
    work.addWorker({ name: 'orders', stop () {}, active: () => 2 })
    void work.run('nightly', never, { timeout: 20 })
    void fastify.close()
    await clock.advance(2500)
    t.match(lines.at(-1)?.report.errors, [{ where: 'job nightly' }, { where: 'worker orders, 2 active' }])
    t.equal(clock.pending, 0)
  })
})

t.test('background work, when the application calls fastify.close() itself', async (t) => {
  t.test('what an onClose hook asks for is waited for, until the deadline', async (t) => {
    for (const [settles, totalMs] of [[true, 2000], [false, 28_000]] as const) {
      const { application, clock, fastify, lines, work } = make()
      let end!: () => void
      application.onClose = () => { work.waitUntil('flush', new Promise<void>((resolve) => { end = resolve })) }
      void fastify.close()
      await clock.advance(2000)
      t.equal(lines.at(-1)?.report, undefined)
      if (settles) end()
      await clock.advance(26_000)
      t.match(lines.at(-1)?.report, { exitCode: settles ? 0 : 1, durations: { totalMs } })
      t.equal(clock.pending, 0)
    }
  })

  t.test('a job that hangs is counted once', async (t) => {
    const { clock, fastify, lines, work } = make({}, { pluginTimeout: 0 })
    void work.run('nightly', never)
    void fastify.close()
    await clock.advance(28_000)
    t.match(lines.at(-1)?.report, { exitCode: 1, cutCount: 1, cut: [{ name: 'job nightly' }], errors: [] })
    t.equal(lines.at(-1)?.report.errors.length, 0)
  })
})

t.test('giveUp before the stop has begun: the process exits in between', async (t) => {
  const { clock, lines, moves, sequence } = make()
  sequence.giveUp('the application called process.exit()')
  t.strictSame(moves, ['closing', 'closed'])
  t.match(lines.at(-1)?.report, { exitCode: 1, drainEnded: 'the application called process.exit()' })
  t.equal(clock.pending, 0)
})
