import { EventEmitter } from 'node:events'
import t from 'tap'
import { type Connection } from '../lib/exchange.js'
import { Holders } from '../lib/holders.js'
import { Countdown } from '../lib/countdown.js'
import { Pending } from '../lib/pending.js'
import { Requests } from '../lib/requests.js'
import { Sockets } from '../lib/sockets.js'
import { computeTimeline } from '../lib/timeline.js'
import { WebSockets } from '../lib/websockets.js'
import { Work } from '../lib/work.js'
import { ManualClock } from './support/clock.js'
import { memoryLog } from './support/log.js'
import { fakeTraffic } from './support/waiting.js'

const GRACE_MS = 4000
const WHY = 'the limit is reached'

const nobodyAsks = (): number => { throw new Error('somebody asks how long closing has lasted') }

function make () {
  const clock = new ManualClock()
  const memory = memoryLog()
  const sockets = new Sockets(clock, 4000)
  const requests: Requests = new Requests(clock, sockets.connections)
  const traffic = fakeTraffic(clock, () => requests, sockets.connections)
  const pending = new Pending(clock)
  const countdown = new Countdown(clock, computeTimeline({ stopTimeout: 30, deregistrationDelay: 20, margin: 2, closeReserve: 8, abortGrace: 2.8 }))
  const work = new Work({ abortGraceMs: 2800, clock, countdown, fail () {}, intake: new AbortController().signal, log: memory.log, pending })
  const webSockets = new WebSockets(clock, GRACE_MS)
  const server = new EventEmitter()
  webSockets.track(server)
  const holders = new Holders({ log: memory.log, pending, requests, sockets, webSockets, work })
  requests.drain()
  return {
    ...memory,
    clock,
    holders,
    sockets,
    traffic,
    webSockets,
    work,
    /** A client of @fastify/websocket that never answers. */
    webSocket (url = '/chat') {
      const ws = Object.assign(new EventEmitter(), { isCut: false, close () {}, terminate () { ws.isCut = true; ws.emit('close') } })
      server.emit('connection', ws, { url, socket: {} })
      return ws
    },
    /** A response that has begun, and may go on for ever. */
    stream () {
      const request = traffic.request()
      request.begin()
      Object.assign(request.res, { chunkedEncoding: true })
      return request
    },
    /** Upgraded by hand: Node has taken the parser away. */
    upgraded () {
      const connection = traffic.connect()
      Object.assign(connection.socket, { parser: null })
      return connection
    },
    hook () {
      pending.begin('hook', 'onClosing hook flushMetrics')
    },
    isConnected: (connection: Connection) => sockets.connections.has(connection)
  }
}

t.test('in the beginning nobody was cut', async (t) => {
  const { holders } = make()
  t.strictSame(holders.cut, [])
  t.equal(holders.cutCount, 0)
})

t.test('a WebSocket client that does not answer is remembered', async (t) => {
  const { clock, holders, webSocket, webSockets, lines } = make()
  const ws = webSocket()
  void webSockets.announce(0, new AbortController().signal, true)
  await clock.advance(GRACE_MS)
  t.equal(ws.isCut, true)
  t.strictSame(holders.cut, [{ kind: 'websocket', name: 'WebSocket /chat', ageMs: GRACE_MS, path: '/chat' }])
  t.equal(holders.cutCount, 1)
  t.strictSame(lines, [], 'the report names it')
})

t.test('cutStreams', async (t) => {
  t.test('cuts and names what may go on for ever: WebSockets, streams, and what was upgraded by hand', async (t) => {
    const { clock, holders, isConnected, lines, sockets, stream, upgraded, webSocket } = make()
    const ws = webSocket()
    stream()
    const connection = upgraded()
    await clock.advance(1000)
    holders.cutStreams(WHY)
    const named = [
      { kind: 'websocket', name: 'WebSocket /chat', ageMs: 1000, path: '/chat' },
      { kind: 'stream', name: 'GET /', ageMs: 1000, path: '/' },
      { kind: 'connection', name: 'an upgraded connection', ageMs: 1000, remoteAddress: '10.0.0.1' }
    ]
    t.match(holders.cut, named)
    t.equal(holders.cutCount, 3)
    t.equal(ws.isCut, true)
    t.equal(isConnected(connection), false)
    t.equal(sockets.connections.size, 0)
    t.equal(lines.length, 1)
    t.match(lines[0], {
      level: 'error',
      holders: named,
      msg: 'the limit is reached; cut off: WebSocket /chat (1 s), GET / (1 s), an upgraded connection (1 s)'
    })
  })

  t.test('leaves alone what will end: requests, whole responses, connections, hooks', async (t) => {
    const { holders, hook, lines, sockets, traffic } = make()
    traffic.request()
    traffic.request().begin()
    traffic.connect()
    hook()
    holders.cutStreams(WHY)
    t.equal(sockets.connections.size, 3)
    t.strictSame(holders.cut, [])
    t.equal(holders.cutCount, 0)
    t.strictSame(lines, [], 'and says nothing')
  })

  t.test('a second time cuts what has begun meanwhile', async (t) => {
    const { holders, of, stream } = make()
    stream()
    holders.cutStreams(WHY)
    holders.cutStreams(WHY)
    t.equal(holders.cutCount, 1)
    stream()
    holders.cutStreams(WHY)
    t.equal(holders.cutCount, 2)
    t.equal(of('error').length, 2)
  })
})

t.test('cutAll', async (t) => {
  t.test('cuts and names everything that holds the exit, and every connection', async (t) => {
    const { clock, holders, hook, lines, sockets, stream, traffic, upgraded, webSocket } = make()
    traffic.request()
    await clock.advance(500)
    stream()
    const ws = webSocket()
    hook()
    upgraded()
    traffic.connect()
    await clock.advance(1000)
    holders.cutAll(WHY, nobodyAsks)
    t.strictSame(holders.cut.map(({ kind, ageMs }) => [kind, ageMs]), [
      ['request', 1500], ['stream', 1000], ['websocket', 1000], ['hook', 1000], ['connection', 1000]
    ])
    t.equal(holders.cutCount, 5)
    t.match(lines, [{
      level: 'error',
      msg: 'the limit is reached; cut off: 2 of GET / (up to 1.5 s), WebSocket /chat (1 s), onClosing hook flushMetrics (1 s), an upgraded connection (1 s)'
    }])
    t.equal(ws.isCut, true)
    t.equal(sockets.connections.size, 0, 'the one without a request holds nothing, and is gone')
  })

  t.test('names connections without a request only where there is nothing else', async (t) => {
    const { clock, holders, sockets, traffic } = make()
    traffic.connect()
    await clock.advance(1000)
    holders.cutAll(WHY, nobodyAsks)
    t.strictSame(holders.cut, [{ kind: 'connection', name: 'a connection without a request', ageMs: 1000, remoteAddress: '10.0.0.1' }])
    t.equal(sockets.connections.size, 0)
  })

  t.test('where there is nobody at all it is a hook of Fastify\'s', async (t) => {
    const { holders, lines } = make()
    holders.cutAll(WHY, () => 1234.5)
    t.strictSame(holders.cut, [{ kind: 'hook', name: 'a preClose or onClose hook', ageMs: 1235 }])
    t.match(lines, [{ msg: 'the limit is reached; cut off: a preClose or onClose hook (1.24 s)' }])
  })

  t.test('a second time does nothing', async (t) => {
    const { holders, lines, traffic } = make()
    traffic.request()
    holders.cutAll(WHY, () => 0)
    traffic.request()
    holders.cutAll(WHY, () => 0)
    t.equal(holders.cutCount, 1)
    t.equal(lines.length, 1)
  })

  t.test('adds to what was cut before', async (t) => {
    const { clock, holders, stream, traffic, webSocket, webSockets } = make()
    webSocket()
    void webSockets.announce(0, new AbortController().signal, true)
    await clock.advance(GRACE_MS)
    stream()
    holders.cutStreams(WHY)
    traffic.request()
    holders.cutAll(WHY, () => 0)
    t.strictSame(holders.cut.map(({ kind }) => kind), ['websocket', 'stream', 'request'])
    t.equal(holders.cutCount, 3)
  })
})

t.test('of many a hundred are kept, all are counted, and the line is short', async (t) => {
  const { holders, lines, stream, traffic, webSocket } = make()
  webSocket()
  for (let i = 0; i < 299; i++) stream()
  holders.cutStreams(WHY)
  t.equal(holders.cut.length, 100)
  t.equal(holders.cutCount, 300)
  t.equal(lines[0]?.holders.length, 100)
  t.equal(lines[0]?.msg, 'the limit is reached; cut off: WebSocket /chat (0 s), 299 of GET / (up to 0 s)')
  const kept = [...holders.cut]
  for (let i = 0; i < 5; i++) traffic.request()
  holders.cutAll(WHY, () => 0)
  t.strictSame(holders.cut, kept)
  t.equal(holders.cutCount, 305)
  t.equal(lines[1]?.holders.length, 5, 'the line names those that are not kept')
})

t.test('current', async (t) => {
  t.test('names who is waited for now: requests, jobs, workers and hooks, and when draining is over WebSockets too', async (t) => {
    const { clock, holders, hook, lines, traffic, webSocket, work } = make()
    t.strictSame(holders.current(false), [])
    traffic.request()
    webSocket()
    void work.run('nightly', () => new Promise(() => {}))
    hook()
    await clock.advance(1000)
    const named = (isDraining: boolean) => holders.current(isDraining).map(({ kind, ageMs }) => [kind, ageMs])
    t.strictSame(named(true), [['request', 1000], ['job', 1000], ['hook', 1000]])
    t.strictSame(named(false), [['request', 1000], ['websocket', 1000], ['job', 1000], ['hook', 1000]])
    t.strictSame([holders.cut, holders.cutCount, lines], [[], 0, []], 'it only looks')
  })

  t.test('forgets what has ended', async (t) => {
    const { clock, holders, traffic, work } = make()
    const request = traffic.request()
    let end!: () => void
    void work.run('nightly', () => new Promise<void>((resolve) => { end = resolve }))
    request.end()
    t.match(holders.current(true), [{ kind: 'job', name: 'job nightly' }])
    end()
    await clock.settle()
    t.strictSame(holders.current(true), [])
  })
})

t.test('a job that has reached its own timeout is named, remembered, and not cut once more', async (t) => {
  const { clock, holders, lines, work } = make()
  void work.run('nightly', () => new Promise(() => {}), { timeout: 5 })
  void work.run('other', () => new Promise(() => {}))
  work.drain({ reason: 'SIGTERM', remaining: () => 1000, signal: new AbortController().signal })
  await clock.advance(4999)
  t.equal(holders.cutCount, 0)
  await clock.advance(1)
  const named = [{ kind: 'job', name: 'job nightly', ageMs: 5000 }]
  t.strictSame([holders.cut, holders.cutCount], [named, 1])
  t.match(lines, [{ level: 'error', holders: named, msg: 'job nightly has its timeout of 5 s behind it; cut off: job nightly (5 s)' }])
  t.match(holders.current(false), [{ name: 'job other' }])
  holders.cutAll(WHY, nobodyAsks)
  t.strictSame(holders.cut.map(({ name }) => name), ['job nightly', 'job other'])
  t.equal(lines[1]?.msg, 'the limit is reached; cut off: job other (5 s)')
})
