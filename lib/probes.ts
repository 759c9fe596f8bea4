import type { IncomingMessage } from 'node:http'
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
  if (config.readinessPath !== false) {
    await registerProbe(fastify, parts, 'readinessPath', config.readinessPath, async (raw) => {
      const asked = selfChecks.get(raw)
      if (asked !== undefined) return readinessAnswer(asked, true, parts.remaining())
      const isPassing = parts.state() === 'ready' && readiness !== undefined ? await readiness.isPassing() : true
      // The stop may have begun while the check was asked.
      return readinessAnswer(parts.state(), isPassing, parts.remaining())
    })
  }
  if (config.livenessPath !== false) {
    await registerProbe(fastify, parts, 'livenessPath', config.livenessPath, async () => livenessAnswer)
  }
}

async function registerProbe (
  fastify: FastifyInstance, { requests }: ProbeParts, option: string, url: string,
  answer: (raw: IncomingMessage) => Promise<Answer>
): Promise<void> {
  const path = fastify.prefix + url
  if (fastify.hasRoute({ method: 'GET', url: path })) throw new FARGATE_ERR_PATH_TAKEN(option, path, option)

  const respond = async (request: FastifyRequest, reply: FastifyReply) => {
    requests.probed(request.raw)
    // Written past Fastify: no onSend hook of the application may turn the 503 into something else.
    reply.hijack()
    const { code, status, retryAfter } = await answer(request.raw)
    const body = JSON.stringify({ status })
    if (retryAfter !== undefined) reply.raw.setHeader('retry-after', retryAfter)
    reply.raw.writeHead(code, {
      'content-type': 'application/json; charset=utf-8',
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store'
    })
    reply.raw.end(request.method === 'HEAD' ? undefined : body)
  }

  // An encapsulated instance with a hook of its own: it comes before every hook that the application adds later, and no
  // other route pays for it.
  await fastify.register(async (probe) => {
    probe.addHook('onRequest', respond)
    probe.route({
      method: 'GET',
      url,
      exposeHeadRoute: true,
      logLevel: 'silent',
      schema: { hide: true } as object,
      config: { rateLimit: false, shutdown: { traffic: false } } as object,
      handler: respond
    })
  })
}
