import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createHttp2Server, connect as connectHttp2, constants, type ClientHttp2Session, type ClientHttp2Stream, type Http2Server, type OutgoingHttpHeaders } from 'node:http2'
import { type AddressInfo, Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { Connection, cut, holderOf, insistOnClose, isStream, isWhole, type Exchange } from '../lib/exchange.js'
import { connect } from './support/client.js'

const NOW = 5000

/** What stands between Node and the rest of the plugin, without the rest. */
function exchangeOf (req: IncomingMessage, res: ServerResponse, isHttp2 = false): Exchange {
  const connection = new Connection(req.socket, 0, isHttp2)
  return { req, res, connection, at: 1000, tick: undefined, request: undefined, isTraffic: true, isLast: false }
}

interface Asked {
  readonly exchange: Exchange
  /** Resolves when the response is over, one way or the other. */
  readonly closed: Promise<void>
}

async function listen (t: Test, server: Server | Http2Server): Promise<number> {
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  t.teardown(() => { server.close() })
  return (server.address() as AddressInfo).port
}

function askedOf (req: IncomingMessage, res: ServerResponse, isHttp2: boolean): Asked {
  return { exchange: exchangeOf(req, res, isHttp2), closed: new Promise((resolve) => { res.once('close', resolve) }) }
}

/** A request on a connection of its own, which nobody answers but the test. */
async function ask (t: Test, head = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n') {
  const server = createServer()
  const arrived = new Promise<Asked>((resolve) => { server.once('request', (req, res) => { resolve(askedOf(req, res, false)) }) })
  const client = await connect(t, await listen(t, server))
  client.write(head)
  return { client, ...await arrived }
}

async function join (t: Test) {
  const server = createHttp2Server()
  const arrivals: Array<(asked: Asked) => void> = []
  server.on('request', (req, res) => { arrivals.shift()!(askedOf(req as unknown as IncomingMessage, res as unknown as ServerResponse, true)) })
  const port = await listen(t, server)
  const session: ClientHttp2Session = connectHttp2(`http://127.0.0.1:${port}`)
  t.teardown(() => { session.destroy() })
  return {
    session,
    async ask (headers: OutgoingHttpHeaders = {}) {
      const arrived = new Promise<Asked>((resolve) => { arrivals.push(resolve) })
      const stream: ClientHttp2Stream = session.request(headers)
      const ended = new Promise<string>((resolve) => {
        stream.on('error', () => {})
        stream.resume().once('close', () => { resolve(stream.rstCode === 0 ? 'whole' : `RST_STREAM ${stream.rstCode}`) })
      })
      return { stream, ended, ...await arrived }
    }
  }
}

t.test('a connection', async (t) => {
  const socket = new Socket()
  const connection = new Connection(socket, 1234, true)
  t.equal(connection.socket, socket)
  t.equal(connection.since, 1234)
  t.equal(connection.isHttp2, true)
  t.equal(connection.isTraffic, true)
  t.equal(connection.isBusy, false)
  connection.exchanges.push({} as Exchange)
  t.equal(connection.isBusy, true, 'is busy with an exchange')
})

t.test('a stream', async (t) => {
  t.test('is a response that has begun, is chunked and was not ended', async (t) => {
    const { exchange: { res }, client } = await ask(t)
    t.equal(isStream(res), false, 'not before its headers')
    res.write('begun')
    t.equal(isStream(res), true)
    await client.until(/begun/)
    t.equal(isStream(res), true)
    res.end()
    t.equal(isStream(res), false, 'not from its end on, flushed or not')
  })

  t.test('is one also where only the headers were sent', async (t) => {
    const { exchange: { res } } = await ask(t)
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.flushHeaders()
    t.equal(isStream(res), true)
  })

  t.test('is one also where the application chunks it by its own header', async (t) => {
    const { exchange: { res } } = await ask(t)
    res.writeHead(200, { 'Transfer-Encoding': 'chunked' })
    res.write('begun')
    t.equal(isStream(res), true)
  })

  t.test('is no response whose length is known, however slow', async (t) => {
    const { exchange: { res } } = await ask(t)
    res.writeHead(200, { 'content-length': 1000 })
    res.write('begun')
    t.equal(isStream(res), false)
  })

  for (const [what, status, method] of [['to a HEAD request', 200, 'HEAD'], ['without a body', 204, 'GET']] as const) {
    t.test(`is no response ${what}`, async (t) => {
      const { exchange: { res } } = await ask(t, `${method} / HTTP/1.1\r\nHost: x\r\n\r\n`)
      res.writeHead(status)
      res.flushHeaders()
      t.equal(isStream(res), false)
    })
  }

  t.test('with HTTP/2 is a response that has begun, has no length and was not ended', async (t) => {
    const { exchange: { res } } = await (await join(t)).ask()
    t.equal(isStream(res), false)
    res.write('begun')
    t.equal(isStream(res), true)
    res.end()
    t.equal(isStream(res), false)
  })

  t.test('with HTTP/2 is no response whose length is known', async (t) => {
    const { exchange: { res } } = await (await join(t)).ask()
    res.writeHead(200, { 'content-length': 1000 })
    res.write('begun')
    t.equal(isStream(res), false)
  })

  t.test('with HTTP/2 is none that was reset before it had begun', async (t) => {
    const { exchange: { res }, closed, stream } = await (await join(t)).ask()
    stream.close(constants.NGHTTP2_CANCEL)
    await closed
    t.equal(isStream(res), false)
  })
})

t.test('a response is whole', async (t) => {
  t.test('when it was flushed', async (t) => {
    const { exchange: { res }, closed } = await ask(t)
    t.equal(isWhole(res), false)
    res.end('answer')
    await closed
    t.equal(isWhole(res), true)
  })

  t.test('and not when its client has gone before', async (t) => {
    const { exchange: { res }, closed, client } = await ask(t)
    res.write('begun')
    await client.until(/begun/)
    client.socket.destroy()
    await closed
    t.equal(isWhole(res), false)
  })

  t.test('with HTTP/2 the same', async (t) => {
    const { ask } = await join(t)
    const one = await ask()
    one.exchange.res.end('answer')
    await one.closed
    t.equal(isWhole(one.exchange.res), true)
    const other = await ask()
    other.exchange.res.write('begun')
    other.stream.close(constants.NGHTTP2_CANCEL)
    await other.closed
    t.equal(isWhole(other.exchange.res), false)
  })
})

t.test('what is cut', async (t) => {
  t.test('with HTTP/1.1 is the connection', async (t) => {
    const { exchange, closed, client } = await ask(t)
    exchange.res.write('begun')
    await client.until(/begun/)
    cut(exchange)
    t.equal(exchange.connection.socket.destroyed, true, 'at once: its client may not read')
    await closed
    t.equal(isWhole(exchange.res), false)
    await client.ended
    t.notMatch(client.received, /\r\n0\r\n/, 'without the last chunk: the client sees that it is not whole')
  })

  t.test('with HTTP/2 is the one stream, with CANCEL, and the others on its session go on', async (t) => {
    const { ask, session } = await join(t)
    const one = await ask()
    const other = await ask()
    for (const { exchange } of [one, other]) exchange.res.write('begun')
    cut(one.exchange)
    t.equal(await one.ended, `RST_STREAM ${constants.NGHTTP2_CANCEL}`)
    await one.closed
    t.equal(isWhole(one.exchange.res), false)
    other.exchange.res.end()
    t.equal(await other.ended, 'whole')
    t.equal(session.closed, false)
  })

  t.test('may have gone already', async (t) => {
    const { exchange, closed, client } = await ask(t)
    client.socket.destroy()
    await closed
    cut(exchange)
    const http2 = await (await join(t)).ask()
    http2.stream.close()
    await http2.closed
    cut(http2.exchange)
    t.equal(exchange.connection.socket.destroyed, true)
  })
})

t.test('a holder', async (t) => {
  t.test('has its method, its path without the query string, its age and its client', async (t) => {
    const { exchange } = await ask(t, 'PUT /reports/7?token=secret HTTP/1.1\r\nHost: x\r\n\r\n')
    t.strictSame(holderOf({ ...exchange, at: 1000.4 }, NOW), {
      kind: 'request', name: 'PUT /reports/7', ageMs: 4000, path: '/reports/7', remoteAddress: '127.0.0.1'
    })
  })

  t.test('has the name of its route, and its request id, where Fastify knows them', async (t) => {
    const { exchange } = await ask(t, 'GET /reports/7 HTTP/1.1\r\nHost: x\r\n\r\n')
    const of = (url: string | undefined) => ({ ...exchange, request: { id: 'req-7', routeOptions: { url } } as unknown as FastifyRequest })
    t.match(holderOf(of('/reports/:id'), NOW), { name: 'GET /reports/:id', path: '/reports/7', requestId: 'req-7' })
    t.match(holderOf(of(undefined), NOW), { name: 'GET /reports/7', requestId: 'req-7' }, 'a 404 has no route')
  })

  t.test('is a request, a response or a stream', async (t) => {
    const { exchange: request } = await ask(t)
    t.equal(holderOf(request, NOW).kind, 'request')
    const { exchange: stream } = await ask(t)
    stream.res.write('begun')
    t.equal(holderOf(stream, NOW).kind, 'stream')
    stream.res.end()
    t.equal(holderOf(stream, NOW).kind, 'response', 'a stream that was ended and is not flushed')
    const { exchange: response } = await ask(t)
    response.res.writeHead(200, { 'content-length': 1000 }).write('begun')
    t.equal(holderOf(response, NOW).kind, 'response')
  })

  t.test('whose client has gone has no address', async (t) => {
    const { exchange, closed, client } = await ask(t)
    client.socket.destroy()
    await closed
    t.strictSame(holderOf(exchange, NOW), { kind: 'request', name: 'GET /', ageMs: 4000, path: '/' })
  })

  t.test('may lack its url', async (t) => {
    const { exchange } = await ask(t)
    exchange.req.url = undefined
    t.match(holderOf(exchange, NOW), { name: 'GET ', path: '' })
  })

  t.test('with HTTP/2 is the same', async (t) => {
    const { ask } = await join(t)
    const { exchange, stream, closed } = await ask({ ':path': '/events?token=secret' })
    t.strictSame(holderOf(exchange, NOW), { kind: 'request', name: 'GET /events', ageMs: 4000, path: '/events', remoteAddress: '127.0.0.1' })
    exchange.res.write('begun')
    t.equal(holderOf(exchange, NOW).kind, 'stream')
    exchange.res.end()
    t.equal(holderOf(exchange, NOW).kind, 'response')
    stream.close()
    await closed
    t.match(holderOf(exchange, NOW), { name: 'GET /events' }, 'and no trouble when it has gone')
  })
})

t.test('insistOnClose', async (t) => {
  /** The headers of an answer that was made to be the last one. */
  const headersOf = async (t: Test, answer: (res: ServerResponse) => void, { isLast = true, statusMessage = 'OK' } = {}) => {
    const server = createServer((_req, res) => {
      res.shouldKeepAlive = !isLast
      insistOnClose(res)
      answer(res)
    })
    const client = await connect(t, await listen(t, server))
    client.get('/')
    const head = (await client.until(/\r\n\r\n/)).split('\r\n\r\n', 1)[0]!
    client.socket.destroy()
    t.equal(/^HTTP\/1\.1 \d+ (.*)/.exec(head)![1], statusMessage)
    return head.split('\r\n').slice(1).filter((line) => !/^date:/i.test(line)).map((line) => line.toLowerCase()).sort()
  }
  const LAST = ['connection: close', 'content-length: 1', 'x-more: 1']

  const answers: Record<string, (res: ServerResponse) => void> = {
    'in an object': (res) => { res.writeHead(200, { 'content-length': 1, Connection: 'keep-alive', 'Keep-Alive': 'timeout=5', 'x-more': '1' }).end('x') },
    'in an array': (res) => { res.writeHead(200, ['content-length', '1', 'Connection', 'keep-alive', 'keep-alive', 'timeout=5', 'x-more', '1']).end('x') },
    'in pairs': (res) => { res.writeHead(200, [['content-length', '1'], ['Connection', 'keep-alive'], ['x-more', '1']] as unknown as string[]).end('x') },
    'behind a status message': (res) => { res.writeHead(200, 'Fine', { 'content-length': 1, connection: 'keep-alive', 'x-more': '1' }).end('x') },
    'set one by one': (res) => {
      res.setHeader('connection', 'keep-alive').setHeader('keep-alive', 'timeout=5').setHeader('content-length', 1).setHeader('x-more', '1')
      res.end('x')
    }
  }
  for (const [how, answer] of Object.entries(answers)) {
    t.test(`what the handler says of the connection ${how} does not count`, async (t) => {
      t.strictSame(await headersOf(t, answer, { statusMessage: how === 'behind a status message' ? 'Fine' : 'OK' }), LAST)
    })
  }

  t.test('of a response that is not the last one nothing is changed', async (t) => {
    t.strictSame(await headersOf(t, answers['in an object']!, { isLast: false }), ['connection: keep-alive', 'content-length: 1', 'keep-alive: timeout=5', 'x-more: 1'])
  })

  t.test('a switch of protocols is left alone', async (t) => {
    t.strictSame(await headersOf(t, (res) => { res.writeHead(101, { connection: 'Upgrade', upgrade: 'echo', 'x-more': '1' }).end() }, { statusMessage: 'Switching Protocols' }), ['connection: upgrade', 'upgrade: echo', 'x-more: 1'])
  })
})

t.test('hadParser: whether HTTP/1.1 was ever spoken on a connection', async (t) => {
  const socket = new Socket()
  t.equal(new Connection(socket, 0, false).hadParser, false)
  for (const parser of [undefined, null]) t.equal(new Connection(Object.assign(new Socket(), { parser }), 0, false).hadParser, false)
  const connection = new Connection(Object.assign(socket, { parser: {} }), 0, false)
  Object.assign(socket, { parser: null })
  t.equal(connection.hadParser, true, 'also when Node has taken it away since')
})
