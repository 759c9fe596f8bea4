import type { IncomingMessage, ServerResponse } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import type { Holder } from '../types/index.js'
import { type Tick } from './arrivals.js'

export type HttpSocket = Socket & { parser?: unknown }

/** What is known of a connection. */
export class Connection {
  readonly socket: Socket
  /** On the clock. */
  readonly since: number
  /** The latest response of HTTP/1.1, before the stop signal. */
  res: ServerResponse | undefined = undefined
  tick: Tick | undefined = undefined
  /** Known when the application logs. */
  request: FastifyRequest | undefined = undefined
  isTraffic = true
  readonly isHttp2: boolean
  /** Whether Node reads HTTP/1.1 from it: not of a TLS client that has agreed on no protocol. */
  readonly hadParser: boolean
  /** Exchanges that are followed until they end, oldest first: with HTTP/2 always, else from the stop signal on. */
  exchanges: Exchange[] = []

  constructor (socket: Socket, since: number, isHttp2: boolean) {
    this.socket = socket
    this.since = since
    this.isHttp2 = isHttp2
    this.hadParser = (socket as HttpSocket).parser != null
  }

  get isBusy (): boolean {
    return this.exchanges.length > 0
  }
}

/** A request and its response. */
export interface Exchange {
  readonly req: IncomingMessage
  readonly res: ServerResponse
  readonly connection: Connection
  /** The arrival, on the clock. */
  readonly at: number
  /** What it was counted in; `undefined` if it was counted by itself. */
  readonly tick: Tick | undefined
  request: FastifyRequest | undefined
  isTraffic: boolean
  /** Whether its response was made to say `Connection: close`. */
  isLast: boolean
}

/** What Node hands out for HTTP/2 is no stream itself. */
type Http2Response = ServerResponse & { stream?: ServerHttp2Stream }

const CANCEL = constants.NGHTTP2_CANCEL

/**
 * Whether a response has begun and nothing tells that it will end: a chunked one whose handler has not called `end()`,
 * with HTTP/2 one without a content length.
 */
export function isStream (res: Http2Response): boolean {
  if (!res.headersSent || res.writableEnded) return false
  return res.stream === undefined ? res.chunkedEncoding : res.stream.sentHeaders?.['content-length'] === undefined
}

export function isWhole (res: Http2Response): boolean {
  return res.stream === undefined ? res.writableFinished : res.stream.rstCode === 0
}

/**
 * The response says `Connection: close` if it is the last one of its connection, whatever its handler says: a proxy hands
 * the header of its upstream on, which is about another connection.
 */
export function insistOnClose (res: ServerResponse): void {
  const writeHead = res.writeHead.bind(res) as (status: number, ...rest: unknown[]) => ServerResponse
  res.writeHead = (status: number, ...rest: unknown[]) => {
    if (res.shouldKeepAlive || status === 101) return writeHead(status, ...rest)
    res.removeHeader('keep-alive')
    res.setHeader('connection', 'close')
    return writeHead(status, ...rest.map(withoutConnection))
  }
}

/** Headers as `writeHead` takes them: an object, an array of names and values in turns, or one of pairs. */
function withoutConnection (headers: unknown): unknown {
  const isOther = (name: unknown) => !['connection', 'keep-alive'].includes(String(name).toLowerCase())
  // Once a header is set Node takes pairs no longer.
  if (Array.isArray(headers) && Array.isArray(headers[0])) return withoutConnection(headers.flat())
  if (Array.isArray(headers)) return headers.filter((_, index) => isOther(headers[index - index % 2]))
  if (typeof headers !== 'object' || headers === null) return headers
  return Object.fromEntries(Object.entries(headers).filter(([name]) => isOther(name)))
}

export function cut ({ connection, res }: Exchange): void {
  if (connection.isHttp2) (res as Http2Response).stream!.close(CANCEL)
  else connection.socket.destroy()
}

export function holderOf ({ req, res, at, request }: Exchange, now: number): Holder {
  // Without the query string: it may carry what must not be logged.
  const path = (req.url ?? '').split('?', 1)[0]!
  return {
    kind: isStream(res) ? 'stream' : res.headersSent ? 'response' : 'request',
    name: `${req.method} ${request?.routeOptions.url ?? path}`,
    ageMs: Math.round(now - at),
    path,
    ...(request !== undefined && { requestId: request.id }),
    ...(req.socket.remoteAddress !== undefined && { remoteAddress: req.socket.remoteAddress })
  }
}

/** Where the connection of a socket is found. */
export const kConnection = Symbol('fastify-fargate.connection')
