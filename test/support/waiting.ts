// What a deregistration strategy looks at, on a manual clock, with requests that only seem to be some.

import { EventEmitter } from 'node:events'
import { Server as HttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { type Socket } from 'node:net'
import { resolveConfig, type Environment } from '../../lib/config.js'
import { Countdown } from '../../lib/countdown.js'
import { type Waiting } from '../../lib/deregistration/waiting.js'
import { Connection, kConnection } from '../../lib/exchange.js'
import { type Sockets } from '../../lib/sockets.js'
import { Requests } from '../../lib/requests.js'
import { computeTimeline } from '../../lib/timeline.js'
import { type FargateOptions } from '../../types/index.js'
import { ManualClock } from './clock.js'
import { memoryLog, type MemoryLog } from './log.js'

export interface FakeRequest {
  req: IncomingMessage
  res: ServerResponse
  /** The response begins, and stays open. */
  begin: () => void
  /** The response has been flushed. */
  end: () => void
  /** The client is gone before. */
  abort: () => void
}

export interface FakeTraffic {
  readonly connections: Set<Connection>
  /** A request arrives: on a connection of its own, or on this one. */
  request: (connection?: Connection, httpVersionMajor?: 1 | 2) => FakeRequest
  /** A client connects. */
  connect: (httpVersionMajor?: 1 | 2) => Connection
}

/** Requests as `Requests` sees them. The real ones are in the tests of requests.ts and sockets.ts. */
export function fakeTraffic (clock: ManualClock, requests: () => Requests, connections: Set<Connection>, sockets?: Sockets): FakeTraffic {
  const servers = ([1, 2] as const).map((version) => {
    const server = version === 1 ? new HttpServer() : createHttp2Server()
    // Node's own parsers want real sockets.
    server.removeAllListeners('connection')
    sockets?.track(server as HttpServer, () => {})
    return server
  })
  const connect = (httpVersionMajor: 1 | 2 = 1) => {
    const destroy = () => {
      if (!connections.delete(connection)) return
      for (const { res } of connection.exchanges) close(res)
      socket.emit('close')
    }
    const socket = Object.assign(new EventEmitter(), { remoteAddress: '10.0.0.1', parser: {}, destroy, destroySoon: destroy }) as unknown as Socket
    const connection = sockets === undefined ? new Connection(socket, clock.now(), httpVersionMajor === 2) : follow(socket, httpVersionMajor)
    Object.assign(socket, { [kConnection]: connection })
    connections.add(connection)
    return connection
  }
  const follow = (socket: Socket, httpVersionMajor: 1 | 2) => {
    servers[httpVersionMajor - 1]!.emit('connection', socket)
    return (socket as Socket & { [kConnection]: Connection })[kConnection]
  }
  return {
    connections,
    connect,
    request (connection, httpVersionMajor = 1) {
      connection ??= connect(httpVersionMajor)
      const req = { socket: connection.socket, url: '/?secret', method: 'GET', httpVersionMajor } as unknown as IncomingMessage
      const res = Object.assign(new EventEmitter(), { req, destroyed: false, headersSent: false, writableFinished: false, shouldKeepAlive: true, writeHead () {} }) as unknown as ServerResponse
      requests().arrived(req, res)
      return {
        req,
        res,
        begin () { Object.assign(res, { headersSent: true }) },
        end () {
          Object.assign(res, { headersSent: true, writableFinished: true })
          close(res)
        },
        abort () { close(res) }
      }
    }
  }
}

/** As Node does it, flushed or not. */
function close (res: ServerResponse): void {
  res.destroyed = true
  res.emit('close')
}

export interface WaitingParts extends MemoryLog {
  readonly clock: ManualClock
  readonly parts: Waiting
  readonly requests: Requests
  readonly traffic: FakeTraffic
}

/**
 * The stop signal has just come.
 * @param before what happened before it
 */
export function waiting (
  options: FargateOptions = {}, { env = {}, before }: { env?: Environment, before?: (made: Omit<WaitingParts, 'parts'>) => void } = {}
): WaitingParts {
  const clock = new ManualClock()
  const memory = memoryLog()
  const config = resolveConfig(options, env)
  const timeline = computeTimeline(config)
  const countdown = new Countdown(clock, timeline)
  const connections = new Set<Connection>()
  const requests = new Requests(clock, connections)
  const traffic = fakeTraffic(clock, () => requests, connections)
  before?.({ ...memory, clock, requests, traffic })
  countdown.start()
  // The timers of the countdown are not what these tests count.
  countdown.stop()
  requests.drain()
  return { ...memory, clock, requests, traffic, parts: { clock, config, countdown, log: memory.log, reason: 'SIGTERM', requests, timeline } }
}
