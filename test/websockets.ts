import { EventEmitter } from 'node:events'
import { type IncomingMessage } from 'node:http'
import t from 'tap'
import { type Clock } from '../lib/clock.js'
import { WebSockets, type WebSocketClient } from '../lib/websockets.js'
import { type Holder } from '../types/index.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'

const GRACE_MS = 4000

/** What a client was told, and when, in milliseconds from the beginning of the test. */
interface Told {
  client: number
  at: number
  code: number
  reason: string
}

function make ({ makeClock = (clock: ManualClock): Clock => clock } = {}) {
  const clock = new ManualClock()
  const startedAt = clock.now()
  const webSockets = new WebSockets(makeClock(clock), GRACE_MS)
  const server = new EventEmitter()
  webSockets.track(server)
  const told: Told[] = []
  const terminated: Array<{ client: number, at: number }> = []
  const cut: Holder[] = []
  webSockets.onCut = (holder) => { cut.push(holder) }
  let count = 0

  const join = (isPolite: boolean, request: object = { url: '/chat?token=secret', socket: { remoteAddress: '10.0.0.1' } }) => {
    const client = count++
    // As `ws` does it: later.
    const closeSoon = () => { clock.endOfTurn(() => { ws.emit('close') }) }
    const ws: WebSocketClient & EventEmitter = Object.assign(new EventEmitter(), {
      close (code: number, reason: string) {
        told.push({ client, at: clock.now() - startedAt, code, reason })
        if (isPolite) closeSoon()
      },
      terminate () {
        terminated.push({ client, at: clock.now() - startedAt })
        closeSoon()
      }
    })
    server.emit('connection', ws, request as IncomingMessage)
    return ws
  }
  /** A client that does not answer its close frame. */
  const connect = (request?: object) => join(false, request)
  /** One that does. */
  const connectPolite = () => join(true)
  const times = <T>(n: number, fn: () => T): T[] => Array.from({ length: n }, fn)
  /** `webSockets.announce()`, and whether it has resolved. */
  const announce = (windowMs = 0, { hurry = new AbortController().signal, isLast = true } = {}) => {
    const state = { isDone: false }
    void webSockets.announce(windowMs, hurry, isLast).then(() => { state.isDone = true })
    return state
  }
  return { announce, clock, connect, connectPolite, cut, server, terminated, times, told, webSockets }
}

t.test('the same server is followed once', async (t) => {
  const { server, webSockets } = make()
  webSockets.track(server)
  t.equal(server.listenerCount('connection'), 1)
})

t.test('clients of several servers are told', async (t) => {
  const { announce, clock, connect, told, webSockets } = make()
  const other = new EventEmitter()
  webSockets.track(other)
  connect()
  let code = 0
  other.emit('connection', Object.assign(new EventEmitter(), { close (given: number) { code = given } }), { url: '/', socket: {} })
  announce()
  await clock.settle()
  t.equal(told.length, 1)
  t.equal(code, 1001)
})

t.test('every client is told once, with the code for going away and the reason', async (t) => {
  const { announce, clock, connectPolite, told, times } = make()
  times(3, connectPolite)
  const state = announce()
  const expected = [0, 1, 2].map((client) => ({ client, at: 0, code: 1001, reason: 'the service is stopping' }))
  t.strictSame(told, expected, 'at once')
  await clock.settle()
  t.equal(state.isDone, true)
  announce()
  await clock.advance(60_000)
  t.strictSame(told, expected)
  t.equal(clock.pending, 0)
})

t.test('with nobody there nothing is waited for', async (t) => {
  const { announce, clock } = make()
  const state = announce(10_000)
  await turnOfEventLoop()
  t.equal(state.isDone, true)
  t.equal(clock.pending, 0)
})

t.test('without a pace 250 are told in a turn of the event loop', async (t) => {
  const { announce, clock, connectPolite, told, times } = make()
  times(600, connectPolite)
  const state = announce()
  const counts = [told.length]
  for (let turn = 0; turn < 2; turn++) {
    clock.endTurn()
    await turnOfEventLoop()
    t.equal(state.isDone, turn === 1)
    counts.push(told.length)
  }
  t.strictSame(counts, [250, 500, 600])
  await clock.settle()
  t.equal(clock.pending, 0)
})

t.test('a pace', async (t) => {
  t.test('spreads the clients evenly over the window, from its beginning, in the order in which they came', async (t) => {
    const { announce, clock, connectPolite, told, times } = make()
    times(4, connectPolite)
    const state = announce(10_000)
    await clock.advance(7499)
    t.equal(state.isDone, false)
    await clock.advance(1)
    t.equal(state.isDone, true, 'and is done with the last one')
    t.strictSame(told.map(({ client, at }) => [client, at]), [[0, 0], [1, 2500], [2, 5000], [3, 7500]])
    t.equal(clock.pending, 0)
  })

  t.test('is kept in steps of 20 ms at least', async (t) => {
    const { announce, clock, connectPolite, told, times } = make()
    times(1000, connectPolite)
    announce(1000)
    await clock.advance(1000)
    t.equal(told.length, 1000)
    const steps = [...new Set(told.map(({ at }) => at))]
    t.strictSame(steps, Array.from({ length: 50 }, (_, step) => step * 20))
    for (const step of steps) t.equal(told.filter(({ at }) => at === step).length, 20)
  })

  // Timers of Node's are late, always, and its clock has moved on whenever it is read.
  for (const lateMs of [0, 1, 3]) {
    t.test(`tells nobody ahead of the time, and all within the window, though timers are ${lateMs} ms late`, async (t) => {
      for (const [n, windowMs] of [[1, 1000], [2, 10_000], [3, 10_000], [7, 1000], [10, 1500], [45, 1000], [60, 1000], [333, 5000]] as const) {
        let readings = 0
        const { announce, clock, connectPolite, told, times } = make({
          makeClock: (clock) => ({ ...clock, now: () => clock.now() + readings++ / 1000, after: (ms, fn) => clock.after(Math.ceil(ms) + lateMs, fn) })
        })
        times(n, connectPolite)
        const state = announce(windowMs)
        // The step that comes last may be as late as any.
        await clock.advance(windowMs + lateMs)
        t.equal(state.isDone, true, `${n} clients in ${windowMs} ms`)
        t.equal(told.length, n)
        const aheadMs = told.map(({ at }, index) => index * windowMs / n - at)
        // A step of 20 ms may be of one client and a part of another.
        const allowedMs = windowMs / n >= 20 ? 1 : 20
        t.ok(Math.max(...aheadMs) <= allowedMs, `${n} clients in ${windowMs} ms: ${Math.max(...aheadMs)} ms ahead`)
      }
    })
  }

  t.test('that the event loop did not keep is caught up with', async (t) => {
    const { announce, clock, connectPolite, told, times } = make()
    times(10, connectPolite)
    let blockedMs = 4000
    clock.after(1500, () => {
      // As a handler that computes: time goes on, and no timer fires.
      const { now } = clock
      Object.assign(clock, { now: () => now() + blockedMs })
    })
    const state = announce(10_000)
    await clock.advance(2000)
    t.equal(told.length, 7, '6 s have passed')
    blockedMs = 10_000
    await clock.advance(1000)
    t.equal(told.length, 10)
    t.equal(state.isDone, true)
  })

  t.test('ends where hurry begins: the rest is told at once', async (t) => {
    const { announce, clock, connectPolite, told, times } = make()
    times(600, connectPolite)
    const hurry = new AbortController()
    const state = announce(60_000, { hurry: hurry.signal })
    await clock.advance(1000)
    t.equal(told.length, 11)
    hurry.abort()
    await clock.settle()
    t.equal(told.length, 600)
    t.strictSame([...new Set(told.map(({ at }) => at))].at(-1), 1000)
    t.equal(state.isDone, true)
    t.equal(clock.pending, 0)
  })

  t.test('is not begun in a hurry', async (t) => {
    const { announce, clock, connectPolite, told, times } = make()
    times(3, connectPolite)
    announce(60_000, { hurry: AbortSignal.abort() })
    await clock.settle()
    t.strictSame(told.map(({ at }) => at), [0, 0, 0])
  })
})

t.test('a second announcement takes over what is left of the first, at its own pace', async (t) => {
  const { announce, clock, connectPolite, told, times } = make()
  times(5, connectPolite)
  const first = announce(5000, { isLast: false })
  await clock.advance(1500)
  t.equal(told.length, 2)
  const second = announce(600)
  await clock.settle()
  t.equal(first.isDone, true, 'the first one is done')
  t.equal(second.isDone, false)
  await clock.advance(600)
  t.equal(second.isDone, true)
  t.strictSame(told.map(({ client, at }) => [client, at]), [[0, 0], [1, 1000], [2, 1500], [3, 1700], [4, 1900]])
  await clock.advance(60_000)
  t.equal(told.length, 5)
  t.equal(clock.pending, 0)
})

t.test('a second announcement takes over from one that is in a hurry, too', async (t) => {
  const { announce, clock, connectPolite, told, times } = make()
  times(600, connectPolite)
  const first = announce(0, { isLast: false })
  const second = announce()
  await clock.settle()
  t.strictSame([first.isDone, second.isDone], [true, true])
  t.equal(told.length, 600)
  t.equal(new Set(told.map(({ client }) => client)).size, 600, 'each once')
})

t.test('who connects late', async (t) => {
  t.test('is not told before closing, and is told then', async (t) => {
    const { announce, clock, connectPolite, told } = make()
    connectPolite()
    announce(0, { isLast: false })
    await clock.advance(1000)
    connectPolite()
    await clock.advance(1000)
    t.equal(told.length, 1)
    announce()
    await clock.settle()
    t.strictSame(told.map(({ client, at }) => [client, at]), [[0, 0], [1, 2000]])
  })

  t.test('is told at once when closing has begun, whatever the pace', async (t) => {
    const { announce, clock, connectPolite, told, times } = make()
    times(2, connectPolite)
    announce(10_000)
    await clock.advance(1000)
    connectPolite()
    t.match(told.at(-1), { client: 2, at: 1000, code: 1001, reason: 'the service is stopping' })
    await clock.advance(10_000)
    t.strictSame(told.map(({ client }) => client), [0, 2, 1], 'and once')
  })

  t.test('is told at once also when everybody else has gone, and is cut like everybody else', async (t) => {
    const { announce, clock, connect, cut, told } = make()
    announce()
    await clock.advance(1000)
    connect()
    t.equal(told.length, 1)
    await clock.advance(GRACE_MS)
    t.equal(cut.length, 1)
    t.equal(clock.pending, 0)
  })

  t.test('is told in closing even if what came after it was said to be not the last', async (t) => {
    const { announce, clock, connectPolite, told } = make()
    announce()
    announce(0, { isLast: false })
    await clock.settle()
    connectPolite()
    t.equal(told.length, 1)
  })
})

t.test('who has gone by itself is told nothing, and is no holder', async (t) => {
  const { announce, clock, connect, connectPolite, cut, told, webSockets } = make()
  const gone = connectPolite()
  gone.emit('close')
  connectPolite()
  const leaving = connect()
  announce(1000)
  leaving.emit('close')
  t.strictSame(webSockets.holders().length, 1)
  await clock.advance(10_000)
  t.strictSame(told.map(({ client }) => client), [1])
  t.strictSame(webSockets.holders(), [])
  t.strictSame(cut, [])
  t.equal(clock.pending, 0)
})

t.test('a client has its time to answer', async (t) => {
  t.test('and is cut after it, each after its own, in the order in which they were told', async (t) => {
    const { announce, clock, connect, cut, terminated, times, webSockets } = make()
    times(3, () => connect())
    announce(9000)
    await clock.advance(GRACE_MS - 1)
    t.strictSame(terminated, [])
    await clock.advance(1)
    t.strictSame(terminated, [{ client: 0, at: GRACE_MS }])
    t.strictSame(cut, [{ kind: 'websocket', name: 'WebSocket /chat', ageMs: GRACE_MS, path: '/chat', remoteAddress: '10.0.0.1' }])
    await clock.advance(10_000)
    t.strictSame(terminated.map(({ client, at }) => [client, at]), [[0, 4000], [1, 7000], [2, 10_000]])
    t.equal(cut.length, 3)
    t.strictSame(webSockets.holders(), [])
    t.equal(clock.pending, 0)
  })

  t.test('which is not shortened by who is told later, nor by who answers', async (t) => {
    const { announce, clock, connect, connectPolite, terminated } = make()
    connect()
    announce()
    await clock.advance(1000)
    connectPolite()
    connect()
    await clock.advance(10_000)
    t.strictSame(terminated.map(({ client, at }) => [client, at]), [[0, 4000], [2, 5000]])
  })

  t.test('and when the first to be told answers the next one still has its own', async (t) => {
    const { announce, clock, connect, terminated } = make()
    const first = connect()
    connect()
    announce(2000)
    await clock.advance(2000)
    first.emit('close')
    await clock.advance(10_000)
    t.strictSame(terminated, [{ client: 1, at: 5000 }])
    t.equal(clock.pending, 0)
  })

  t.test('all that were told at one instant are cut at one instant', async (t) => {
    const { announce, clock, connect, terminated, times } = make()
    times(600, () => connect())
    announce()
    await clock.advance(GRACE_MS)
    t.equal(terminated.length, 600)
    t.equal(clock.pending, 0)
  })

  t.test('when all have answered no timer is left', async (t) => {
    const { announce, clock, connectPolite, terminated, times } = make()
    times(3, connectPolite)
    announce()
    t.strictSame(clock.dueInMs, [GRACE_MS])
    await clock.settle()
    t.equal(clock.pending, 0)
    await clock.advance(10_000)
    t.strictSame(terminated, [])
  })

  t.test('a socket that closes within terminate() is cut once', async (t) => {
    const { announce, clock, connect, cut, times } = make()
    for (const ws of times(3, () => connect())) ws.terminate = () => { ws.emit('close') }
    announce()
    await clock.advance(10_000)
    t.equal(cut.length, 3)
    t.equal(clock.pending, 0)
  })

  t.test('nobody has to be interested in who was cut', async (t) => {
    const clock = new ManualClock()
    const webSockets = new WebSockets(clock, GRACE_MS)
    const server = new EventEmitter()
    webSockets.track(server)
    let isCut = false
    server.emit('connection', Object.assign(new EventEmitter(), { close () {}, terminate () { isCut = true } }), { socket: {} })
    void webSockets.announce(0, new AbortController().signal, true)
    await clock.advance(GRACE_MS)
    t.equal(isCut, true)
  })
})

t.test('stop ends the telling and the cutting, and leaves no timer', async (t) => {
  const { announce, clock, connect, terminated, times, told, webSockets } = make()
  times(3, () => connect())
  const state = announce(9000)
  await clock.advance(3000)
  t.equal(told.length, 2)
  webSockets.stop()
  t.strictSame(clock.dueInMs, [])
  await clock.advance(60_000)
  t.equal(state.isDone, true)
  t.equal(told.length, 2)
  t.strictSame(terminated, [])
  t.equal(clock.pending, 0)
})

t.test('stop before anything has begun does nothing', async (t) => {
  const { clock, webSockets } = make()
  webSockets.stop()
  t.equal(clock.pending, 0)
})

t.test('holders are who is still there, told or not, oldest first, without their query string', async (t) => {
  const { announce, clock, connect, connectPolite, webSockets } = make()
  connect()
  await clock.advance(1000.4)
  connect({ url: '/feed', socket: {} })
  await clock.advance(500)
  connect({ socket: { remoteAddress: '10.0.0.3' } })
  connectPolite()
  announce()
  await clock.settle()
  t.strictSame(webSockets.holders(), [
    { kind: 'websocket', name: 'WebSocket /chat', ageMs: 1500, path: '/chat', remoteAddress: '10.0.0.1' },
    { kind: 'websocket', name: 'WebSocket /feed', ageMs: 500, path: '/feed' },
    { kind: 'websocket', name: 'WebSocket ', ageMs: 0, path: '', remoteAddress: '10.0.0.3' }
  ])
})

t.test('a request without a socket is no error: injectWS() of @fastify/websocket makes such', async (t) => {
  const { announce, clock, connect } = make()
  t.doesNotThrow(() => { connect({ url: '/injected' }) })
  const state = announce()
  await clock.advance(10_000)
  t.equal(state.isDone, true)
  t.equal(clock.pending, 0)
})

t.test('terminateAll cuts everyone, also who was not told yet, and leaves no timer', async (t) => {
  const { announce, clock, connect, cut, terminated, times, told, webSockets } = make()
  times(3, () => connect())
  announce(9000)
  await clock.advance(100)
  webSockets.terminateAll()
  t.strictSame(terminated.map(({ client }) => client), [0, 1, 2])
  await clock.settle()
  t.strictSame(webSockets.holders(), [])
  await clock.advance(60_000)
  t.equal(told.length, 1)
  t.strictSame(cut, [], 'whoever asks for it names them')
  t.equal(clock.pending, 0)
})

t.test('who was cut is no holder any more, though its close is late', async (t) => {
  const clock = new ManualClock()
  const webSockets = new WebSockets(clock, 4000)
  const cut: Holder[] = []
  webSockets.onCut = (holder) => { cut.push(holder) }
  const server = new EventEmitter()
  webSockets.track(server)
  let terminated = 0
  server.emit('connection', { close () {}, terminate () { terminated++ }, once () {} }, { url: '/late' })
  await webSockets.announce(0, new AbortController().signal, true)
  await clock.advance(4000)
  t.equal(cut.length, 1)
  t.strictSame(webSockets.holders(), [])
  webSockets.terminateAll()
  t.equal(terminated, 1)
})
