import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { State } from '../types/index.js'
import { type Config } from './config.js'
import { FARGATE_ERR_PATH_TAKEN } from './errors.js'
import { type Readiness } from './readiness.js'
import { type Requests } from './requests.js'

export interface Answer {
  code: 200 | 503
  status: string
  /** Seconds. */
  retryAfter?: number
}

export interface ProbeParts {
  readonly config: Config
  readonly requests: Requests
  readonly readiness: Readiness | undefined
  /** Requests that the self-check has made up, and the state they ask about. */
  readonly selfChecks: WeakMap<IncomingMessage, State>
  state (): State
  remaining (): number
}

/** What the load balancer is told. */
export function readinessAnswer (state: State, isPassing: boolean, remainingMs: number): Answer {
  switch (state) {
    case 'starting': return { code: 503, status: state }
    case 'ready': return isPassing ? { code: 200, status: state } : { code: 503, status: 'failing' }
    default: return { code: 503, status: state, retryAfter: Math.max(1, Math.ceil(remainingMs / 1000)) }
  }
}

/** A container that drains is alive: a failing container health check would have it killed in the middle. */
export const livenessAnswer: Answer = { code: 200, status: 'alive' }

/** Registers the routes that are wanted. @throws FARGATE_ERR_PATH_TAKEN */
export async function registerProbes (fastify: FastifyInstance, parts: ProbeParts): Promise<void> {
  const { config, readiness, selfChecks } = parts
  const answerNow = (isPassing: boolean) => readinessAnswer(parts.state(), isPassing, parts.remaining())
  if (config.readinessPath !== false) {
    await registerProbe(fastify, parts, 'readinessPath', config.readinessPath, (raw) => {
      const asked = selfChecks.get(raw)
      if (asked !== undefined) return readinessAnswer(asked, true, parts.remaining())
      if (parts.state() !== 'ready' || readiness === undefined) return answerNow(true)
      // The stop may begin while the check is asked.
      return readiness.isPassing().then(answerNow)
    })
  }
  if (config.livenessPath !== false) {
    await registerProbe(fastify, parts, 'livenessPath', config.livenessPath, () => livenessAnswer)
  }
}

async function registerProbe (
  fastify: FastifyInstance, { requests }: ProbeParts, option: string, url: string,
  answer: (raw: IncomingMessage) => Answer | Promise<Answer>
): Promise<void> {
  const path = fastify.prefix + url
  if (fastify.hasRoute({ method: 'GET', url: path })) throw new FARGATE_ERR_PATH_TAKEN(option, path, option)

  // Without a promise where none is needed: a fleet of load balancer nodes asks all day.
  const respond = (request: FastifyRequest, reply: FastifyReply) => {
    requests.probed(request.raw)
    // Written past Fastify: no onSend hook of the application may turn the 503 into something else.
    reply.hijack()
    const answered = answer(request.raw)
    if (answered instanceof Promise) void answered.then((late) => { write(request.raw, reply.raw, late) })
    else write(request.raw, reply.raw, answered)
  }

  // An encapsulated instance with a hook of its own: it comes before every hook that the application adds later, and no
  // other route pays for it.
  await fastify.register(async (probe) => {
    probe.addHook('onRequest', (request, reply, _done) => { respond(request, reply) })
    probe.route({
      method: 'GET',
      url,
      exposeHeadRoute: true,
      logLevel: 'silent',
      schema: { hide: true } as object,
      config: { rateLimit: false } as object,
      handler: respond
    })
  })
}

function write ({ method }: IncomingMessage, res: ServerResponse, { code, status, retryAfter }: Answer): void {
  // Somebody else has answered while the check was asked.
  if (res.headersSent) return
  const body = `{"status":"${status}"}`
  if (retryAfter !== undefined) res.setHeader('retry-after', retryAfter)
  res.writeHead(code, {
    'content-type': 'application/json; charset=utf-8',
    'content-length': body.length,
    'cache-control': 'no-store'
  })
  res.end(method === 'HEAD' ? undefined : body)
}
