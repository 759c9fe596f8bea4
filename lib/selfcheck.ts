import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { State } from '../types/index.js'
import { type Clock, limited } from './clock.js'
import { FARGATE_ERR_PROBE_INTERCEPTED } from './errors.js'
import { type Answer } from './probes.js'

const LIMIT_SECONDS = 5

/**
 * Asks the application for one of the plugin's routes as a load balancer would, before it listens: a hook that answers
 * 401 there, or rewrites the answer, would keep the task out of service for ever.
 * @throws FARGATE_ERR_PROBE_INTERCEPTED
 */
export async function selfCheck (
  fastify: FastifyInstance, clock: Clock, path: string, expected: Answer, mark: (raw: IncomingMessage) => void
): Promise<void> {
  const wanted = `${expected.code} ${JSON.stringify({ status: expected.status })}`
  const fail = (got: string) => new FARGATE_ERR_PROBE_INTERCEPTED(path, wanted, got)
  const got = await limited(clock, LIMIT_SECONDS, () => request(fastify, path, mark).catch((error: unknown) => `nothing: ${String(error)}`),
    () => fail(`nothing within ${LIMIT_SECONDS} s`))
  if (got !== wanted) throw fail(got.slice(0, 200))
}

/** The states whose answers are worth asking for: the one that brings traffic, and the one that ends it. */
export const CHECKED_STATES: readonly State[] = ['ready', 'draining']

/** `503 {"status":"draining"}` */
function request (fastify: FastifyInstance, path: string, mark: (raw: IncomingMessage) => void): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = ''
    const socket = new Duplex({
      read () {},
      write (chunk, _encoding, callback) {
        received += String(chunk)
        callback()
      }
    }) as Socket
    socket.once('error', reject)
    const req = new IncomingMessage(socket)
    Object.assign(req, { method: 'GET', url: path, httpVersion: '1.1', httpVersionMajor: 1, httpVersionMinor: 1 })
    req.headers = { host: 'localhost', 'user-agent': 'ELB-HealthChecker/2.0' }
    req.push(null)
    const res = new ServerResponse(req)
    res.assignSocket(socket)
    res.once('error', reject)
    res.once('finish', () => { resolve(`${res.statusCode} ${received.slice(received.indexOf('\r\n\r\n') + 4)}`) })
    mark(req)
    fastify.routing(req, res)
  })
}
