import { type IncomingMessage, type ServerResponse } from 'node:http'
import { connect as connectSocket } from 'node:net'
import { type FastifyRequest } from 'fastify'
import t from 'tap'
import { type Connection } from '../lib/exchange.js'
import { Requests } from '../lib/requests.js'
import { ManualClock, turnOfEventLoop } from './support/clock.js'
import { connect } from './support/client.js'
import { calls, follow } from './support/server.js'
import { fakeTraffic } from './support/waiting.js'

function make () {
  const clock = new ManualClock()
  const connections = new Set<Connection>()
  const requests: Requests = new Requests(clock, connections)
  return { clock, requests, traffic: fakeTraffic(clock, () => requests, connections) }
}

t.test('arrivals', async (t) => {
  t.test('before the first request there was none', async (t) => {
    const { requests } = make()
    t.equal(requests.lastArrivalAt, undefined)
    t.equal(requests.usualPause(3000), undefined)
    t.equal(requests.hasBeenProbed, false)
  })

  t.test('the last one counts, as of the end of the 20 ms in which it came', async (t) => {
    const { clock, requests, traffic } = make()
    const connection = traffic.connect()
    for (let i = 0; i < 3; i++) {
      const before = requests.lastArrivalAt
      traffic.request(connection).end()
      clock.skip(19)
      t.equal(requests.lastArrivalAt, before)
      clock.skip(1)
      t.equal(requests.lastArrivalAt, clock.now())
      clock.skip(230)
    }
  })

  t.test('no clock is read for a request; one timer and one reading do for all that come in the same 20 ms', async (t) => {
    const { clock, traffic } = make()
    const { now } = clock
    let readings = 0
    const connections = Array.from({ length: 10 }, () => traffic.connect())
    t.intercept(clock, 'now', {
      value: () => {
        readings++
        return now()
      }
    })
    for (const connection of connections) {
      traffic.request(connection)
      clock.skip(1)
    }
    t.equal(readings, 0)
    t.equal(clock.background, 2, 'the other one forgets')
    clock.skip(10)
    t.equal(readings, 1)
    clock.skip(100)
    t.equal(readings, 1, 'without requests time is not looked at')
  })

  t.test('from the signal on each counts at once, at its own time', async (t) => {
    const { clock, requests, traffic } = make()
    requests.drain()
    for (const ms of [0, 7, 250]) {
      clock.skip(ms)
      traffic.request()
      t.equal(requests.lastArrivalAt, clock.now())
    }
    t.equal(clock.background, 0)
  })

  t.test('the signal ends the 20 ms that have begun, once', async (t) => {
    const { clock, requests, traffic } = make()
    traffic.request()
    clock.skip(7)
    const at = clock.now()
    requests.drain()
    t.equal(requests.lastArrivalAt, at)
    clock.skip(100)
    t.equal(requests.lastArrivalAt, at)
    t.equal(clock.background, 0)
  })

  t.test('a request costs no listener on its response before the signal, and no object', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect()
    const { res } = traffic.request(connection)
    t.strictSame(res.eventNames(), [])
    t.strictSame(connection.exchanges, [])
    t.equal(connection.isBusy, false)
    requests.drain()
    t.strictSame(res.eventNames(), ['close'])
    t.equal(connection.isBusy, true)
  })

  t.test('arrivals in the same 20 ms are one: there is no pause between them', async (t) => {
    const { clock, requests, traffic } = make()
    for (let i = 0; i < 101; i++) {
      for (let j = 0; j < 3; j++) {
        traffic.request().end()
        clock.skip(5)
      }
      clock.skip(85)
    }
    t.ok(requests.usualPause(0)! >= 100, `${requests.usualPause(0)} ms`)
  })

  t.test('the pauses between requests add up to the usual one; the time before the first request is none', async (t) => {
    const { clock, requests, traffic } = make()
    clock.skip(120_000)
    for (let i = 0; i < 101; i++) {
      traffic.request()
      traffic.request()
      clock.skip(100)
      if (i === 59) t.equal(requests.usualPause(0), undefined, 'sixty requests have 59 pauses between them')
      if (i === 60) t.ok(requests.usualPause(0)! >= 100, 'after six seconds; the last pause is among them')
    }
    const usual = requests.usualPause(0)
    t.ok(usual !== undefined && usual >= 100 && usual < 120, `${usual} ms`)
  })

  t.test('a connection older than the plugin is left alone', async (t) => {
    const { clock, requests, traffic } = make()
    const { req, res } = traffic.request()
    const other = { ...req, socket: {} } as unknown as IncomingMessage
    clock.skip(5000)
    const at = requests.lastArrivalAt
    requests.arrived(other, res)
    t.equal(clock.background, 0)
    clock.skip(20)
    t.equal(requests.lastArrivalAt, at)
    requests.ignore(other)
    requests.name({ raw: other } as unknown as FastifyRequest)
    requests.drain()
    t.equal(requests.inFlight, 1)
  })
})

t.test('memory', async (t) => {
  t.test('an idle connection does not keep its last request for longer than a second', async (t) => {
    const { clock, requests, traffic } = make()
    const connection = traffic.connect()
    const request = traffic.request(connection)
    requests.name({ raw: request.req } as unknown as FastifyRequest)
    const other = traffic.connect()
    const open = traffic.request(other)
    requests.name({ raw: open.req } as unknown as FastifyRequest)
    traffic.connect()
    request.end()
    clock.skip(999)
    t.equal(connection.res, request.res)
    t.equal(connection.request?.raw, request.req)
    clock.skip(1)
    t.equal(connection.res, undefined)
    t.equal(connection.request, undefined)
    t.equal(other.res, open.res, 'what is in flight stays')
    t.equal(other.request?.raw, open.req)
    t.equal(clock.background, 0)
    t.equal(clock.pending, 0)
  })

  t.test('a connection does not keep the view that Fastify had of the request before', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect()
    const first = traffic.request(connection)
    requests.name({ raw: first.req, id: 'req-1', routeOptions: {} } as unknown as FastifyRequest)
    first.end()
    const second = traffic.request(connection)
    requests.name({ raw: first.req, id: 'req-1', routeOptions: {} } as unknown as FastifyRequest)
    t.equal(connection.request, undefined)
    requests.drain()
    t.equal(requests.holders()[0]?.requestId, undefined)
    second.end()
  })

  t.test('one timer does it for all, another one ends the 20 ms; neither keeps the process alive, and both are set when there is something to do', async (t) => {
    const { clock, traffic } = make()
    for (let i = 0; i < 5; i++) traffic.request().end()
    t.equal(clock.background, 2)
    t.equal(clock.pending, 0)
    clock.skip(20)
    t.equal(clock.background, 1)
    clock.skip(980)
    t.equal(clock.background, 0)
    traffic.request()
    t.strictSame(clock.dueInMs, [20, 1000])
    clock.skip(500)
    traffic.request()
    t.strictSame(clock.dueInMs, [20, 500])
  })

  t.test('a client that pipelines for ever does not add up', async (t) => {
    const { traffic } = make()
    const connection = traffic.connect()
    for (const version of [1, 2] as const) {
      for (let i = 0; i < 100; i++) traffic.request(connection, version).end()
      t.strictSame(connection.exchanges, [])
    }
  })

  t.test('from the signal on, and after stop, there is no timer', async (t) => {
    for (const end of ['drain', 'stop'] as const) {
      const { clock, requests, traffic } = make()
      traffic.request()
      requests[end]()
      t.equal(clock.background, 0, end)
    }
    const { clock, requests, traffic } = make()
    requests.drain()
    traffic.request()
    t.equal(clock.background, 0, 'nor one later')
  })
})

t.test('requests that are no traffic', async (t) => {
  t.test('ignored, they leave no trace in time', async (t) => {
    const { clock, requests, traffic } = make()
    requests.ignore(traffic.request().req)
    clock.skip(20)
    t.equal(requests.lastArrivalAt, undefined)
    traffic.request()
    clock.skip(1000)
    const at = requests.lastArrivalAt
    const scraper = traffic.request()
    clock.skip(25)
    t.equal(requests.lastArrivalAt, clock.now() - 5)
    requests.ignore(scraper.req)
    t.equal(requests.lastArrivalAt, at, 'not even behind a slow hook')
  })

  t.test('ignored before the signal, at the signal or after it, whenever they came', async (t) => {
    for (const came of ['before', 'in the 20 ms of the signal', 'after'] as const) {
      for (const ignored of ['at once', 'after the signal'] as const) {
        const { clock, requests, traffic } = make()
        traffic.request().end()
        clock.skip(1000)
        const at = requests.lastArrivalAt
        if (came === 'after') requests.drain()
        const { req } = traffic.request()
        if (ignored === 'at once') requests.ignore(req)
        clock.skip(came === 'before' ? 500 : 5)
        requests.drain()
        clock.skip(5)
        requests.ignore(req)
        t.equal(requests.lastArrivalAt, at, `${came}, ${ignored}`)
        t.equal(requests.unansweredTraffic, 0)
      }
    }
  })

  t.test('with HTTP/2 too, before the signal and after it', async (t) => {
    for (const ms of [0, 30]) {
      for (const draining of [false, true]) {
        const { clock, requests, traffic } = make()
        const { req } = traffic.request(undefined, 2)
        clock.skip(ms)
        if (draining) requests.drain()
        requests.probed(req)
        requests.probed(req)
        clock.skip(30)
        t.equal(requests.lastArrivalAt, undefined, `${ms} ms later, draining: ${draining}`)
      }
    }
  })

  t.test('ignored in the same 20 ms as the signal, traffic in them still counts', async (t) => {
    const { clock, requests, traffic } = make()
    const scraper = traffic.request()
    traffic.request().end()
    clock.skip(7)
    requests.drain()
    const at = clock.now()
    requests.ignore(scraper.req)
    t.equal(requests.lastArrivalAt, at)
  })

  t.test('nor in the usual pause', async (t) => {
    const { clock, requests, traffic } = make()
    for (let i = 0; i < 101; i++) {
      traffic.request()
      clock.skip(50)
      requests.ignore(traffic.request().req)
      clock.skip(50)
    }
    t.ok(requests.usualPause(0)! >= 100, 'the pauses are 100 ms long, not 50')
  })

  t.test('ignored after a later request, the later one counts', async (t) => {
    for (const draining of [false, true]) {
      const { clock, requests, traffic } = make()
      if (draining) requests.drain()
      const scraper = traffic.request()
      clock.skip(1000)
      traffic.request()
      clock.skip(20)
      const at = requests.lastArrivalAt
      requests.ignore(scraper.req)
      t.equal(requests.lastArrivalAt, at)
      t.equal(at, clock.now() - (draining ? 20 : 0))
    }
  })

  t.test('ignored twice, the traffic before is not ignored with it', async (t) => {
    for (const draining of [false, true]) {
      for (const ms of [0, 100]) {
        const { clock, requests, traffic } = make()
        if (draining) requests.drain()
        traffic.request()
        clock.skip(1000)
        traffic.request()
        clock.skip(1000)
        const at = requests.lastArrivalAt
        const scraper = traffic.request()
        clock.skip(ms)
        requests.ignore(scraper.req)
        requests.ignore(scraper.req)
        clock.skip(100)
        t.equal(requests.lastArrivalAt, at)
      }
    }
  })

  t.test('ignored twice, another request of the same 20 ms counts', async (t) => {
    const { clock, requests, traffic } = make()
    const scraper = traffic.request()
    traffic.request()
    requests.ignore(scraper.req)
    requests.ignore(scraper.req)
    clock.skip(20)
    t.equal(requests.lastArrivalAt, clock.now())
  })

  t.test('one after the other, they leave the time of the traffic before', async (t) => {
    const { clock, requests, traffic } = make()
    traffic.request()
    clock.skip(20)
    const at = clock.now()
    for (let i = 0; i < 6; i++) {
      if (i === 4) requests.drain()
      const scraper = traffic.request()
      // In the 20 ms, and after them.
      clock.skip(i * 10)
      requests.ignore(scraper.req)
      clock.skip(1000)
      t.equal(requests.lastArrivalAt, at)
    }
  })

  t.test('one that came at the very instant of another does not take it along', async (t) => {
    for (const order of ['before', 'after']) {
      const { clock, requests, traffic } = make()
      traffic.request()
      clock.skip(1000)
      const first = traffic.request()
      const second = traffic.request()
      requests.ignore((order === 'before' ? first : second).req)
      clock.skip(20)
      t.equal(requests.lastArrivalAt, clock.now(), order)
    }
  })

  t.test('a probe is one of them, and is remembered', async (t) => {
    const { requests, traffic } = make()
    requests.probed(traffic.request().req)
    t.equal(requests.hasBeenProbed, true)
    t.equal(requests.lastArrivalAt, undefined)
  })

  t.test('what was made up without a server is nobody\'s request', async (t) => {
    const { requests } = make()
    // The plugin's own check at boot, and fastify.inject().
    requests.probed({ socket: {} } as unknown as IncomingMessage)
    t.equal(requests.hasBeenProbed, false)
  })
})

t.test('in flight', async (t) => {
  t.test('what was in flight at the signal, and what came after it, is followed until it has ended', async (t) => {
    const { requests, traffic } = make()
    const before = traffic.request()
    const ended = traffic.request()
    ended.end()
    t.equal(requests.inFlight, 0, 'nobody has asked yet')
    requests.drain()
    t.equal(requests.inFlight, 1)
    const after = traffic.request()
    t.equal(requests.inFlight, 2)
    before.end()
    after.end()
    t.equal(requests.inFlight, 0)
  })

  t.test('a response that has begun is in flight, but it is answered', async (t) => {
    const { requests, traffic } = make()
    const stream = traffic.request()
    traffic.request()
    requests.drain()
    t.strictSame([requests.inFlight, requests.unanswered, requests.unansweredTraffic], [2, 2, 2])
    stream.begin()
    t.strictSame([requests.inFlight, requests.unanswered, requests.unansweredTraffic], [2, 1, 1])
  })

  t.test('what is no traffic is in flight too, but nobody waits for it while draining', async (t) => {
    const { requests, traffic } = make()
    requests.ignore(traffic.request().req)
    requests.drain()
    t.strictSame([requests.inFlight, requests.unanswered, requests.unansweredTraffic], [1, 1, 0])
  })

  t.test('requests that a client pipelines are each in flight from the signal on', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect()
    requests.drain()
    const [a, b, c] = [traffic.request(connection), traffic.request(connection), traffic.request(connection)]
    t.strictSame(connection.exchanges.map(({ res }) => res), [a.res, b.res, c.res])
    t.equal(requests.inFlight, 3)
    requests.ignore(a.req)
    t.equal(requests.unansweredTraffic, 2, 'an earlier one is found too')
    requests.name({ raw: b.req, id: 'req-b', routeOptions: {} } as unknown as FastifyRequest)
    t.strictSame(requests.holders().map(({ requestId }) => requestId), [undefined, 'req-b', undefined])
    a.end()
    t.equal(requests.inFlight, 2)
    c.end()
    t.strictSame(connection.exchanges.map(({ res }) => res), [b.res])
    b.end()
    t.equal(requests.inFlight, 0)
    t.equal(connection.isBusy, false)
  })

  t.test('of those that a client pipelines before it the last one, which ends last, holds the connection', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect()
    const [a, b] = [traffic.request(connection), traffic.request(connection)]
    requests.drain()
    t.ok(connection.exchanges.some(({ res }) => res === b.res))
    t.equal(a.res.shouldKeepAlive, true, 'the answer before must not close the connection')
    t.equal(b.res.shouldKeepAlive, false)
    a.end()
    t.equal(connection.isBusy, true)
    b.end()
    t.equal(connection.isBusy, false)
    t.equal(requests.inFlight, 0)
  })

  t.test('of the answers to a client that pipelines only the last one says Connection: close', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect()
    const a = traffic.request(connection)
    requests.drain()
    t.equal(a.res.shouldKeepAlive, false)
    const b = traffic.request(connection)
    t.strictSame([a.res.shouldKeepAlive, b.res.shouldKeepAlive], [true, false])
    b.begin()
    const c = traffic.request(connection)
    t.strictSame([b.res.shouldKeepAlive, c.res.shouldKeepAlive], [false, false], 'what is out is left as it is')
  })

  t.test('with HTTP/2 each is followed also before the signal, and keeps its time, its name and its order', async (t) => {
    const { clock, requests, traffic } = make()
    const connection = traffic.connect()
    const [a, b, ended] = [traffic.request(connection, 2), traffic.request(connection, 2), traffic.request(connection, 2)]
    t.equal(connection.res, undefined)
    requests.name({ raw: a.req, id: 'req-a', routeOptions: {} } as unknown as FastifyRequest)
    ended.end()
    clock.skip(100)
    t.equal(requests.lastArrivalAt, clock.now() - 80, 'it is an arrival as any other')
    t.equal(requests.lastEndAt, undefined, 'before the signal nobody asks')
    requests.drain()
    clock.skip(10)
    const c = traffic.request(connection, 2)
    t.equal(requests.lastArrivalAt, clock.now())
    t.equal(requests.inFlight, 3)
    t.match(requests.holders(), [{ requestId: 'req-a', ageMs: 110 }, { ageMs: 110 }, { ageMs: 0 }])
    requests.name({ raw: b.req, id: 'req-b', routeOptions: {} } as unknown as FastifyRequest)
    t.equal(requests.holders()[1]?.requestId, 'req-b', 'its handler started after the signal')
    for (const request of [a, b]) {
      Object.assign(request.res, { stream: { rstCode: 0 } })
      request.end()
    }
    t.equal(requests.served, 0)
    Object.assign(c.res, { stream: { rstCode: 0 } })
    c.end()
    t.equal(requests.served, 1)
    t.equal(connection.isBusy, false)
  })

  t.test('with HTTP/2 a stream that was reset is no answer', async (t) => {
    const { clock, requests, traffic } = make()
    requests.drain()
    clock.skip(10)
    const request = traffic.request(undefined, 2)
    Object.assign(request.res, { stream: { rstCode: 8 } })
    request.end()
    t.equal(requests.served, 0)
  })

  t.test('a connection that is kept alive over the signal has one in flight, not the ended one before it', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect()
    traffic.request(connection).end()
    requests.drain()
    t.equal(connection.isBusy, false)
    const request = traffic.request(connection)
    t.strictSame(connection.exchanges.map(({ res }) => res), [request.res])
    request.end()
    t.equal(requests.inFlight, 0)
  })

  t.test('a connection that is gone has nothing in flight, whatever its responses say', async (t) => {
    const { requests, traffic } = make()
    const [connection, other] = [traffic.connect(), traffic.connect()]
    traffic.request(connection)
    requests.drain()
    const request = traffic.request(connection)
    traffic.request(other)
    requests.gone(connection)
    t.equal(requests.inFlight, 1)
    t.equal(connection.isBusy, false)
    request.abort()
    t.equal(requests.inFlight, 1, 'it has ended once')
  })

  t.test('drain a second time changes nothing', async (t) => {
    const { clock, requests, traffic } = make()
    requests.drain()
    clock.skip(1000)
    const request = traffic.request()
    requests.drain()
    t.equal(requests.inFlight, 1)
    request.end()
    t.equal(requests.served, 1, 'the first call is the one that counts')
  })

  t.test('whoever waits for the next end is woken by it, all of them, and only once', async (t) => {
    const { requests, traffic } = make()
    requests.drain()
    const [a, b] = [traffic.request(), traffic.request()]
    let woken = 0
    for (let i = 0; i < 2; i++) void requests.nextEnd().then(() => { woken++ })
    await turnOfEventLoop()
    t.equal(woken, 0)
    a.end()
    await turnOfEventLoop()
    t.equal(woken, 2)
    b.end()
    await turnOfEventLoop()
    t.equal(woken, 2)
  })

  t.test('onEnd is told of each end, after it, once draining has begun', async (t) => {
    const { requests, traffic } = make()
    const told: unknown[] = []
    requests.onEnd = ({ res, connection }) => { told.push([res, connection.exchanges.length, requests.inFlight]) }
    traffic.request().end()
    const aborted = traffic.request()
    requests.drain()
    aborted.abort()
    t.strictSame(told, [[aborted.res, 0, 0]])
  })

  t.test('when the last response of traffic ended is known; of others it does not matter', async (t) => {
    const { clock, requests, traffic } = make()
    const [request, scraper] = [traffic.request(), traffic.request()]
    requests.ignore(scraper.req)
    requests.drain()
    t.equal(requests.lastEndAt, undefined)
    clock.skip(100)
    request.end()
    const at = clock.now()
    clock.skip(100)
    scraper.end()
    t.equal(requests.lastEndAt, at)
  })
})

t.test('served counts what arrived after the signal and was answered whole', async (t) => {
  const { clock, requests, traffic } = make()
  const before = traffic.request()
  clock.endTurn()
  clock.skip(10)
  requests.drain()
  clock.skip(10)
  const [answered, scraper, aborted] = [traffic.request(), traffic.request(), traffic.request()]
  clock.endTurn()
  requests.ignore(scraper.req)
  before.end()
  t.equal(requests.served, 0, 'it came before')
  scraper.end()
  t.equal(requests.served, 0, 'it is no traffic')
  aborted.abort()
  t.equal(requests.served, 0, 'it got no answer')
  answered.end()
  t.equal(requests.served, 1)
})

t.test('holders', async (t) => {
  t.test('name what is in flight: method, path without the query, age (up to 20 ms short), the client\'s address; the oldest first', async (t) => {
    const { clock, requests, traffic } = make()
    const [old, stream] = [traffic.request(), traffic.request()]
    Object.assign(old.req, { url: '/reports/7?token=secret' })
    Object.assign(stream.req, { url: '/events', method: 'POST' })
    stream.begin()
    clock.skip(1200)
    requests.drain()
    traffic.request()
    clock.skip(34.4)
    t.strictSame(requests.holders(), [
      { kind: 'request', name: 'GET /reports/7', ageMs: 1214, path: '/reports/7', remoteAddress: '10.0.0.1' },
      { kind: 'response', name: 'POST /events', ageMs: 1214, path: '/events', remoteAddress: '10.0.0.1' },
      { kind: 'request', name: 'GET /', ageMs: 34, path: '/', remoteAddress: '10.0.0.1' }
    ])
  })

  t.test('with Fastify\'s view of it they have the route and the request id', async (t) => {
    const { requests, traffic } = make()
    const { req } = traffic.request()
    Object.assign(req, { url: '/reports/7?a=b' })
    requests.name({ raw: req, id: 'req-3', routeOptions: { url: '/reports/:id' } } as unknown as FastifyRequest)
    requests.drain()
    t.match(requests.holders(), [{ name: 'GET /reports/:id', path: '/reports/7', requestId: 'req-3' }])
  })

  t.test('also when its handler starts after the signal, of a request that came before it', async (t) => {
    const { clock, requests, traffic } = make()
    const connection = traffic.connect()
    const { req } = traffic.request(connection)
    clock.skip(7)
    requests.drain()
    requests.name({ raw: req, id: 'req-3', routeOptions: { url: '/:id' } } as unknown as FastifyRequest)
    const { req: later } = traffic.request()
    requests.name({ raw: later, id: 'req-4', routeOptions: { url: '/:id' } } as unknown as FastifyRequest)
    t.match(requests.holders(), [{ requestId: 'req-3' }, { requestId: 'req-4' }])
  })

  t.test('a request without a route is named by its path', async (t) => {
    const { requests, traffic } = make()
    const { req } = traffic.request()
    requests.name({ raw: req, id: 'req-3', routeOptions: {} } as unknown as FastifyRequest)
    requests.drain()
    t.match(requests.holders(), [{ name: 'GET /', requestId: 'req-3' }])
  })

  t.test('a request that has just come has no age yet', async (t) => {
    const { requests, traffic } = make()
    requests.drain()
    traffic.request()
    t.match(requests.holders(), [{ ageMs: 0 }])
  })

  t.test('what is not known is left out', async (t) => {
    const { requests, traffic } = make()
    const { req } = traffic.request()
    Object.assign(req, { url: undefined })
    Object.assign(req.socket, { remoteAddress: undefined })
    requests.drain()
    t.strictSame(Object.keys(requests.holders()[0]!), ['kind', 'name', 'ageMs', 'path'])
  })
})

t.test('on a real server', async (t) => {
  type Given = [req: IncomingMessage, res: ServerResponse]

  t.test('from the signal on every answer says Connection: close, also the one that is in flight', async (t) => {
    const handler = calls<Given>()
    const { port, requests } = await follow(t, (...given) => { handler.call(given) })
    const client = await connect(t, port)
    client.get('/before')
    const [, first] = await handler.next()
    first.end('1')
    await client.until(/\r\n\r\n1/)
    t.match(client.received, /connection: keep-alive/i)

    client.get('/in-flight')
    const [, second] = await handler.next()
    requests.drain()
    second.end('2')
    t.match(await client.ended, /connection: close/i)

    const fresh = await connect(t, port)
    fresh.get('/after')
    const [, third] = await handler.next()
    third.end('3')
    t.match(await fresh.ended, /connection: close/i)
    t.equal(requests.inFlight, 0)
  })

  t.test('an answer whose headers are out is left as it is', async (t) => {
    const handler = calls<Given>()
    const { port, requests } = await follow(t, (...given) => { handler.call(given) })
    const client = await connect(t, port)
    client.get('/stream')
    const [, res] = await handler.next()
    res.write('begun')
    await client.until(/begun/)
    requests.drain()
    t.equal(res.shouldKeepAlive, true)
    res.end()
    await client.until(/\r\n0\r\n/)
    t.match(client.received, /connection: keep-alive/i)
  })

  t.test('requests that a client pipelines are all answered, in order', async (t) => {
    const handler = calls<Given>()
    const { port, requests } = await follow(t, (...given) => { handler.call(given) })
    const client = await connect(t, port)
    client.write('GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n')
    const [, first] = await handler.next()
    const [, second] = await handler.next()
    const ended = new Promise((resolve) => { second.once('close', resolve) })
    second.end('two')
    first.end('one')
    await client.until(/one[^]*two/)
    await ended
    requests.drain()
    t.equal(requests.inFlight, 0)
  })

  t.test('a client that goes away ends what it had in flight', async (t) => {
    const handler = calls<Given>()
    const { port, requests } = await follow(t, (...given) => { handler.call(given) })
    const sockets = Array.from({ length: 3 }, () => connectSocket(port, '127.0.0.1'))
    for (const socket of sockets) socket.on('error', () => {}).write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    for (let i = 0; i < 3; i++) await handler.next()
    requests.drain()
    t.equal(requests.inFlight, 3)
    for (const socket of sockets) {
      const next = requests.nextEnd()
      socket.destroy()
      await next
    }
    t.equal(requests.inFlight, 0)
    t.equal(requests.served, 0)
  })

  t.test('an answer is in flight until its last byte has left, however slowly the client reads', async (t) => {
    const handler = calls<Given>()
    const { port, requests } = await follow(t, (...given) => { handler.call(given) })
    const client = await connect(t, port)
    client.socket.pause()
    client.get('/big')
    const [, res] = await handler.next()
    requests.drain()
    res.end(Buffer.alloc(30_000_000, 'x'))
    // The kernel takes a part of it, and then no more.
    await turnOfEventLoop()
    t.equal(res.writableEnded, true)
    t.equal(requests.inFlight, 1)
    client.socket.resume()
    const received = await client.ended
    t.ok(received.length > 30_000_000, 'nothing is cut off')
    t.equal(requests.inFlight, 0)
  })
})

t.test('requests that are no traffic leave no trace in the usual pause', async (t) => {
  t.test('after the signal', async (t) => {
    const { clock, requests, traffic } = make()
    for (let i = 0; i < 600; i++) {
      traffic.request().end()
      clock.skip(100)
    }
    const usual = requests.usualPause(0)
    requests.drain()
    for (let i = 0; i < 5; i++) {
      clock.skip(1000)
      const probe = traffic.request()
      requests.probed(probe.req)
      probe.end()
    }
    t.equal(requests.usualPause(0), usual)
  })

  t.test('nor behind a slow hook before it', async (t) => {
    const { clock, requests, traffic } = make()
    for (let i = 0; i < 101; i++) {
      traffic.request().end()
      clock.skip(50)
      const scraper = traffic.request()
      clock.skip(25)
      requests.ignore(scraper.req)
      scraper.end()
      clock.skip(25)
    }
    t.ok(requests.usualPause(0)! >= 100 && requests.usualPause(0)! < 120, `${requests.usualPause(0)}`)
  })
})

t.test('cutStreams', async (t) => {
  t.test('cuts what may go on for ever, with what waits behind it on its connection, and nothing else', async (t) => {
    const handler = calls<ServerResponse>()
    const { port, requests, clock } = await follow(t, (_req, res) => { handler.call(res) })
    const begin = async (path: string, answer: (res: ServerResponse) => void, client?: Awaited<ReturnType<typeof connect>>) => {
      client ??= await connect(t, port)
      client.get(path)
      const res = await handler.next()
      answer(res)
      clock.skip(1000)
      return { client, res }
    }
    requests.drain()
    const stream = await begin('/stream', (res) => { res.write('begun') })
    await stream.client.until(/begun/)
    const waiting = await begin('/waiting', () => {})
    const finite = await begin('/finite', (res) => {
      res.writeHead(200, { 'content-length': 6 })
      res.write('beg')
    })
    await begin('/behind', () => {}, stream.client)

    t.match(requests.cutStreams(), [
      { kind: 'stream', name: 'GET /stream', path: '/stream', ageMs: 4000 },
      { kind: 'request', name: 'GET /behind', path: '/behind', ageMs: 1000 }
    ])
    t.match(await stream.client.ended, /begun\r\n$/, 'without its last chunk')
    waiting.res.end('answered')
    finite.res.end('ins')
    t.match(await waiting.client.ended, /answered$/)
    t.match(await finite.client.ended, /begins$/)
    t.strictSame(requests.cutStreams(), [])
  })

  t.test('of a session of HTTP/2 only the stream goes', async (t) => {
    const { requests, traffic } = make()
    const connection = traffic.connect(2)
    const cut: string[] = []
    const answers = ['/endless', '/other'].map((name) => {
      const answer = traffic.request(connection, 2)
      return Object.assign(answer.res, { stream: { rstCode: 0, sentHeaders: {}, close: () => { cut.push(name) } } })
    })
    requests.drain()
    Object.assign(answers[0]!, { headersSent: true })
    t.equal(requests.cutStreams().length, 1)
    t.strictSame(cut, ['/endless'])
    t.equal(connection.socket.destroyed, undefined, 'the fake one was left alone')
  })
})

t.test('holders come oldest first, whatever the order of their connections', async (t) => {
  const { clock, requests, traffic } = make()
  const [one, two, three] = [traffic.connect(), traffic.connect(), traffic.connect()]
  for (const connection of [two, three, one]) {
    traffic.request(connection)
    clock.skip(100)
  }
  requests.drain()
  t.strictSame(requests.holders().map(({ ageMs }) => ageMs), [280, 180, 80])
})

t.test('what never came over a connection is nobody\'s request, also where it has no socket at all', async (t) => {
  const { requests } = make()
  for (const raw of [{}, { socket: {} }] as IncomingMessage[]) {
    t.doesNotThrow(() => {
      requests.name({ raw } as FastifyRequest)
      requests.ignore(raw)
      requests.probed(raw)
    })
  }
  t.equal(requests.hasBeenProbed, false)
})
