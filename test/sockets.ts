import { createServer, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, Socket } from 'node:net'
import { Duplex } from 'node:stream'
import t from 'tap'
import { Sockets } from '../lib/sockets.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'
import { connect } from './support/client.js'
import { calls, follow } from './support/server.js'

t.test('the same server is followed once', async (t) => {
  const sockets = new Sockets(new ManualClock(), 4000)
  const server = createServer()
  for (let i = 0; i < 2; i++) sockets.track(server, () => {})
  t.equal(server.listenerCount('request'), 1)
})

t.test('requests are seen before anybody else sees them, who may answer at once', async (t) => {
  const order: string[] = []
  const server = createServer(() => { order.push('application') })
  new Sockets(new ManualClock(), 4000).track(server, () => { order.push('ours') })
  server.emit('request')
  t.strictSame(order, ['ours', 'application'])
})

t.test('connections are known while they last', async (t) => {
  const { port, sockets, server } = await follow(t, (_req, res) => { res.end('x') })
  const accepted = new Promise((resolve) => { server.once('connection', resolve) })
  const client = await connect(t, port)
  const socket = await accepted as Socket
  t.strictSame([...sockets.connections].map((connection) => connection.socket), [socket])
  const closed = new Promise((resolve) => { socket.once('close', resolve) })
  client.socket.destroy()
  await closed
  t.equal(sockets.connections.size, 0)
})

t.test('listening is known for each server, and for none', async (t) => {
  const { sockets, server, closed } = await follow(t, () => {})
  t.equal(sockets.isListening, true)
  t.equal(new Sockets(new ManualClock(), 4000).isListening, false)
  server.close()
  await closed
  t.equal(sockets.isListening, false)
})

t.test('stopAccepting takes no new connection, and ends none: neither an idle one nor one whose request is on its way', async (t) => {
  const { port, sockets, closed } = await follow(t, (_req, res) => { res.end('answered') })
  const idle = await connect(t, port)
  idle.get('/')
  await idle.until(/answered/)
  const half = await connect(t, port)
  half.write('GET / HTTP/1.1\r\n')
  await turnOfEventLoop()

  sockets.stopAccepting()
  sockets.stopAccepting()
  t.equal(sockets.isListening, false)
  await t.rejects(connect(t, port), { code: 'ECONNREFUSED' })
  half.write('Host: x\r\n\r\n')
  await half.until(/answered/)
  idle.get('/again')
  await idle.until(/answered[^]*answered/)
  sockets.destroyAll()
  await closed
})

t.test('releaseAll', async (t) => {
  t.test('ends idle connections, those that never sent a byte, and half a request', async (t) => {
    const { port, sockets, requests, server, closed, clock } = await follow(t, (_req, res) => { res.end('answered') })
    const idle = await connect(t, port)
    idle.get('/')
    await idle.until(/answered/)
    const silent = await connect(t, port)
    const half = await connect(t, port)
    half.write('GET / HT')
    // All three have been accepted when a fourth has its answer.
    const last = await connect(t, port)
    last.get('/')
    await last.until(/answered/)
    requests.drain()
    sockets.stopAccepting()
    void sockets.releaseAll(true)
    for (const client of [idle, silent, half, last]) await client.ended
    await closed
    // The sockets tell of it a moment after the server.
    await turnOfEventLoop()
    t.equal(sockets.connections.size, 0)
    t.equal(server.listening, false)
    t.equal(clock.pending, 0)
  })

  t.test('lets one that is busy finish, and ends it with release', async (t) => {
    const handler = calls<ServerResponse>()
    const { port, sockets, requests, closed } = await follow(t, (_req, res) => { handler.call(res) })
    requests.onEnd = ({ connection }) => { sockets.release(connection) }
    const client = await connect(t, port)
    client.get('/')
    const res = await handler.next()
    res.write('begun ')
    await client.until(/begun/)
    requests.drain()
    sockets.stopAccepting()
    void sockets.releaseAll(true)
    for (let i = 0; i < 5; i++) await turnOfEventLoop()
    t.equal(sockets.connections.size, 1)
    res.end('ended')
    t.match(await client.ended, /begun [^]*ended[^]*\r\n0\r\n/)
    await closed
  })

  t.test('before it release does nothing', async (t) => {
    const { port, sockets, clock } = await follow(t, (_req, res) => { res.end('answered') })
    const client = await connect(t, port)
    client.get('/')
    await client.until(/answered/)
    for (const connection of sockets.connections) sockets.release(connection)
    await clock.settle()
    client.get('/')
    await client.until(/answered[^]*answered/)
  })

  t.test('what the kernel has received already is read first, and is answered', async (t) => {
    const { port, sockets, requests, clock, closed } = await follow(t, (_req, res) => { res.end('answered') }, { realTurns: false })
    const client = await connect(t, port)
    client.get('/')
    await client.until(/answered/)
    requests.drain()
    sockets.stopAccepting()
    void sockets.releaseAll(true)
    clock.endTurn()
    t.equal(sockets.connections.size, 1)
    client.get('/')
    await client.until(/answered[^]*answered/)
    await client.ended
    clock.endTurn()
    await closed
    t.equal(clock.pending, 0)
  })

  t.test('ends no more than 250 connections in a turn', async (t) => {
    const clock = new ManualClock()
    const sockets = new Sockets(clock, 4000)
    const server = createServer()
    sockets.track(server, () => {})
    let ended = 0
    for (let i = 0; i < 501; i++) {
      server.emit('connection', Object.assign(new Duplex({ read () {} }), { parser: {}, destroySoon () { ended++ } }))
    }
    void sockets.releaseAll(false)
    const perTurn: number[] = []
    for (let i = 0; i < 5; i++) {
      clock.endTurn()
      await null
      perTurn.push(ended)
    }
    t.strictSame(perTurn, [0, 250, 500, 501, 501])
    t.equal(clock.pending, 0)
  })

  t.test('keeps server.close() from sweeping; with takeOver also closeAllConnections() from cutting', async (t) => {
    for (const takeOver of [true, false]) {
      const handler = calls<ServerResponse>()
      const { port, requests, sockets, server } = await follow(t, (_req, res) => { handler.call(res) })
      const client = await connect(t, port)
      client.get('/')
      const res = await handler.next()
      requests.drain()
      void sockets.releaseAll(takeOver)
      server.closeIdleConnections()
      server.closeAllConnections()
      res.end('answered')
      await (takeOver ? client.until(/answered/) : client.ended)
      t.equal(client.received.includes('answered'), takeOver)
      await turnOfEventLoop()
    }
  })

  t.test('has server.close() wait for the connections of every server, and hands its error on', async (t) => {
    const handler = calls<ServerResponse>()
    const { port, requests, sockets, server } = await follow(t, (_req, res) => { handler.call(res) })
    const first = createServer()
    sockets.track(first, () => {})
    requests.onEnd = ({ connection }) => { sockets.release(connection) }
    const client = await connect(t, port)
    client.get('/')
    const res = await handler.next()
    requests.drain()
    void sockets.releaseAll(true)
    let closed: Error | undefined | 'not yet' = 'not yet'
    const closing = new Promise<void>((resolve) => {
      first.close((error) => {
        closed = error
        resolve()
      })
    })
    // Without somebody who wants to know it closes, too.
    server.close()
    for (let i = 0; i < 5; i++) await turnOfEventLoop()
    t.equal(closed, 'not yet', 'it has no connection of its own, but the other one has')
    res.end('answered')
    t.match(await client.ended, /answered/)
    await closing
    t.match(closed, { code: 'ERR_SERVER_NOT_RUNNING' })
  })

  t.test('ends a TLS handshake that is not done: no request can have come on it', async (t) => {
    for (const end of ['releaseAll', 'destroyAll'] as const) {
      const clock = new ManualClock()
      const sockets = new Sockets(clock, 4000)
      const server = createTlsServer()
      sockets.track(server, () => {})
      await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
      t.teardown(() => { server.close() })
      const accepted = new Promise((resolve) => { server.once('connection', resolve) })
      const client = await connect(t, (server.address() as AddressInfo).port)
      await accepted
      t.equal(sockets.connections.size, 0)
      void sockets[end](true)
      if (end === 'releaseAll') {
        clock.endTurn()
        await turnOfEventLoop()
        t.equal(client.socket.destroyed, false)
        clock.endTurn()
        await turnOfEventLoop()
      }
      t.equal(await client.ended, '')
    }
  })

  t.test('where Node does not tell which handshake is done, none is ended rather than a wrong one', async (t) => {
    const sockets = new Sockets(new ManualClock(), 4000)
    const server = createTlsServer()
    server.removeAllListeners('connection').removeAllListeners('secureConnection')
    sockets.track(server, () => {})
    const raw = new Socket()
    const secured = new Socket()
    server.emit('connection', raw)
    server.emit('secureConnection', secured)
    sockets.destroyAll()
    t.strictSame([raw.destroyed, secured.destroyed], [false, true])
  })

  t.test('a second one changes nothing', async (t) => {
    const { sockets, clock } = await follow(t, () => {}, { realTurns: false })
    void sockets.releaseAll(false)
    const { pending } = clock
    void sockets.releaseAll(true)
    t.equal(clock.pending, pending)
  })

  t.test('leaves an upgraded connection to whoever upgraded it', async (t) => {
    const { port, sockets, server, clock } = await follow(t, () => {})
    const upgraded = new Promise<Socket>((resolve) => { server.once('upgrade', (_req, socket) => { resolve(socket as Socket) }) })
    const client = await connect(t, port)
    client.get('/', 'Connection: Upgrade\r\nUpgrade: websocket\r\n')
    const socket = await upgraded
    void sockets.releaseAll(true)
    await clock.settle()
    await clock.settle()
    t.equal(socket.destroyed, false)
    socket.write('still here')
    await client.until(/still here/)
    t.equal(sockets.connections.size, 1)
  })
})

t.test('holders: what is connected, with its age and its client', async (t) => {
  const { port, sockets, server, clock } = await follow(t, () => {})
  const accepted = new Promise((resolve) => { server.once('connection', resolve) })
  await connect(t, port)
  await accepted
  await clock.advance(1500)
  t.strictSame(sockets.holders(), [{ kind: 'connection', name: 'a connection without a request', ageMs: 1500, remoteAddress: '127.0.0.1' }])
})

t.test('holders: a client whose address is not known any more has none', async (t) => {
  const sockets = new Sockets(new ManualClock(), 4000)
  const server = createServer()
  sockets.track(server, () => {})
  server.emit('connection', new Duplex({ read () {} }))
  t.strictSame(Object.keys(sockets.holders()[0]!), ['kind', 'name', 'ageMs'])
})

t.test('destroyAll cuts everything off, in flight or not', async (t) => {
  const handler = calls<ServerResponse>()
  const { port, sockets, requests } = await follow(t, (_req, res) => { handler.call(res) })
  const client = await connect(t, port)
  client.get('/')
  await handler.next()
  requests.drain()
  sockets.destroyAll()
  t.equal(await client.ended, '')
  // The server's own side closes a tick later.
  await turnOfEventLoop()
  t.equal(requests.inFlight, 0)
  t.equal(sockets.connections.size, 0)
})
