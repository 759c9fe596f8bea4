import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import type { Holder } from '../types/index.js'
import { Arrivals } from './arrivals.js'
import { type Clock } from './clock.js'
import { cut, holderOf, insistOnClose, isStream, isWhole, kConnection, type Connection, type Exchange } from './exchange.js'

/** How long an idle connection may keep its last request in memory. */
const FORGET_AFTER_MS = 1000

/** `undefined` for what never came over a connection: inject(), and what plugins make up, which may have no socket at all. */
function connectionOf ({ socket }: { socket: Socket & { [kConnection]?: Connection } | undefined }): Connection | undefined {
  return socket?.[kConnection]
}

/**
 * The requests of one Fastify instance: when the last one came and how long the pauses between them usually are; from
 * the stop signal on also which are in flight.
 *
 * Before the stop signal a request of HTTP/1.1 costs a few assignments: no clock reading, no object, no listener on its
 * response. What is in flight is found when the signal comes: the latest response of each connection that has not ended
 * (earlier ones, of a client that pipelines, end before it).
 */
export class Requests {
  readonly #clock: Clock
  readonly #connections: ReadonlySet<Connection>
  readonly #arrivals: Arrivals
  readonly #inFlight = new Set<Exchange>()
  #cancelForgetting: (() => void) | undefined
  /** When `drain()` was called, on the clock. */
  #drainingSince: number | undefined
  #lastEndAt: number | undefined
  #served = 0
  #hasBeenProbed = false
  #wake: Array<() => void> = []
  /** Whether there is any route for traffic. A worker has its health routes only. */
  isServing = true
  /** Called when a response has been flushed or its connection is gone. */
  onEnd: (exchange: Exchange) => void = () => {}

  constructor (clock: Clock, connections: ReadonlySet<Connection>) {
    this.#clock = clock
    this.#connections = connections
    this.#arrivals = new Arrivals(clock, () => {
      this.#cancelForgetting ??= clock.inBackground(FORGET_AFTER_MS, this.#forget)
    })
  }

  /** Listener of the server's `request` event. */
  readonly arrived = (req: IncomingMessage, res: ServerResponse): void => {
    const connection = connectionOf(req)
    // A connection that was there before the plugin was: nothing routes to a service that is still booting.
    if (connection === undefined) return
    if (this.#drainingSince !== undefined) {
      const at = this.#clock.now()
      const exchange = { req, res, connection, at, tick: undefined, request: undefined, isTraffic: true, isLast: false }
      this.#follow(exchange)
      this.#arrivals.came(at, exchange)
      return
    }
    const tick = this.#arrivals.countNow()
    if (req.httpVersionMajor === 2) {
      this.#follow({ req, res, connection, at: this.#clock.now(), tick, request: undefined, isTraffic: true, isLast: false })
      return
    }
    connection.res = res
    connection.tick = tick
    connection.request = undefined
    connection.isTraffic = true
  }

  readonly #forget = (): void => {
    this.#cancelForgetting = undefined
    for (const connection of this.#connections) {
      if (connection.res?.destroyed !== true) continue
      connection.res = undefined
      connection.request = undefined
    }
  }

  /** Fastify's view of a request: gives it a route and an id. */
  name (request: FastifyRequest): void {
    const connection = connectionOf(request.raw)
    if (connection === undefined) return
    if (connection.res?.req === request.raw) connection.request = request
    if (!connection.isBusy) return
    const exchange = connection.exchanges.find(({ req }) => req === request.raw)
    if (exchange !== undefined) exchange.request = request
  }

  /** This request did not come through the load balancer: it is no evidence. */
  ignore (raw: IncomingMessage): void {
    const connection = connectionOf(raw)
    if (connection === undefined) return
    const exchange = connection.isBusy ? connection.exchanges.find(({ req }) => req === raw) : undefined
    if (exchange !== undefined) {
      if (!exchange.isTraffic) return
      exchange.isTraffic = false
      if (exchange.tick === undefined) this.#arrivals.takeBack(exchange)
      else this.#arrivals.discount(exchange.tick)
    } else if (connection.res?.req === raw && connection.isTraffic) {
      connection.isTraffic = false
      this.#arrivals.discount(connection.tick!)
    }
  }

  /** A request to the plugin's own routes. */
  probed (raw: IncomingMessage): void {
    // The check at boot is no probe: it has no connection.
    if (connectionOf(raw) !== undefined) this.#hasBeenProbed = true
    this.ignore(raw)
  }

  /** From here on every HTTP/1.1 response says `Connection: close`, and what is in flight is followed. */
  drain (): void {
    if (this.#drainingSince !== undefined) return
    this.stop()
    this.#drainingSince = this.#clock.now()
    for (const connection of this.#connections) {
      const { res, tick, request, isTraffic } = connection
      if (res === undefined || res.destroyed) continue
      this.#follow({ req: res.req, res, connection, at: tick!.at!, tick, request, isTraffic, isLast: false })
    }
  }

  /** Leaves no timer behind. */
  stop (): void {
    this.#arrivals.stop()
    this.#cancelForgetting?.()
    this.#cancelForgetting = undefined
  }

  #follow (exchange: Exchange): void {
    const { connection, res } = exchange
    // The client pipelines: an answer before this one must not close the connection under it.
    for (const earlier of connection.exchanges) {
      if (earlier.isLast && !earlier.res.headersSent) earlier.res.shouldKeepAlive = true
    }
    if (this.#drainingSince !== undefined && !res.headersSent && res.shouldKeepAlive) {
      res.shouldKeepAlive = false
      exchange.isLast = true
      insistOnClose(res)
    }
    connection.exchanges.push(exchange)
    this.#inFlight.add(exchange)
    // 'close', not 'finish': only then have all bytes been handed to the kernel. Also comes when a client aborts.
    res.once('close', () => { this.#ended(exchange) })
  }

  /** The connection is gone. Node tells the response whose turn it was, but not the pipelined ones behind it. */
  gone (connection: Connection): void {
    for (const exchange of [...this.#inFlight]) if (exchange.connection === connection) this.#ended(exchange)
  }

  #ended (exchange: Exchange): void {
    if (!this.#inFlight.delete(exchange)) return
    const { at, connection, isTraffic, res } = exchange
    connection.exchanges = connection.exchanges.filter((other) => other !== exchange)
    if (this.#drainingSince !== undefined && isTraffic) {
      this.#lastEndAt = this.#clock.now()
      if (isWhole(res) && at > this.#drainingSince) this.#served++
    }
    this.onEnd(exchange)
    const wake = this.#wake
    this.#wake = []
    for (const resolve of wake) resolve()
  }

  /** Resolves when the next response ends. */
  nextEnd (): Promise<void> {
    return new Promise((resolve) => { this.#wake.push(resolve) })
  }

  /** Responses that have not been flushed. After `drain()`. */
  get inFlight (): number {
    return this.#inFlight.size
  }

  /** Requests whose response has not begun. After `drain()`. A response that has begun may be endless: a stream. */
  get unanswered (): number {
    let count = 0
    for (const { res } of this.#inFlight) if (!res.headersSent) count++
    return count
  }

  /** As `unanswered`, of the requests that came through the load balancer. */
  get unansweredTraffic (): number {
    let count = 0
    for (const { res, isTraffic } of this.#inFlight) if (isTraffic && !res.headersSent) count++
    return count
  }

  /** Requests that arrived after `drain()` and were answered, probes apart. */
  get served (): number {
    return this.#served
  }

  /** Whether the readiness or the liveness route was ever asked. */
  get hasBeenProbed (): boolean {
    return this.#hasBeenProbed
  }

  /** When the last request that is traffic arrived, on the clock. */
  get lastArrivalAt (): number | undefined {
    return this.#arrivals.lastAt
  }

  /** The pause between two requests that is usual here, in milliseconds; `undefined` when there were too few. */
  usualPause (floorMs: number): number | undefined {
    return this.#arrivals.usualPause(floorMs)
  }

  /** When the last response of traffic ended since `drain()`, on the clock. */
  get lastEndAt (): number | undefined {
    return this.#lastEndAt
  }

  /** Everything in flight, oldest first. After `drain()`. */
  holders (): Holder[] {
    return this.#describe(this.#inFlight)
  }

  /** Cuts the streams that go on, and tells which, oldest first. After `drain()`. */
  cutStreams (): Holder[] {
    const ending = new Set<Exchange>()
    for (const exchange of this.#inFlight) {
      if (!isStream(exchange.res)) continue
      // Of a client that pipelines, what waits for its turn behind the stream goes with it.
      for (const one of exchange.connection.isHttp2 ? [exchange] : exchange.connection.exchanges) ending.add(one)
    }
    const holders = this.#describe(ending)
    for (const exchange of ending) cut(exchange)
    return holders
  }

  #describe (exchanges: Iterable<Exchange>): Holder[] {
    const now = this.#clock.now()
    return [...exchanges].map((exchange) => holderOf(exchange, now)).sort((a, b) => b.ageMs - a.ageMs)
  }
}
