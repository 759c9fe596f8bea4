// Traffic in an open loop: requests leave when they are due, whatever has become of those before, as users do. The
// moments (Poisson) and the mix come from a seeded generator, so two runs send the same.
//
// Lost is every request that did not get its own, complete and correct 2xx answer. Nothing is ever sent twice.

import { createHash } from 'node:crypto'
import { Agent, request, type IncomingMessage } from 'node:http'
import { performance } from 'node:perf_hooks'
import { type Owner } from './service.js'

export interface LoadOptions {
  socketPath?: string
  host?: string
  port?: number
  perSecond?: number
  seed?: number
  timeoutMs?: number
}

export type LossKind =
  | 'status' // an answer that is no 2xx
  | 'reset' // the connection ended before an answer: ECONNRESET, EPIPE, "socket hang up"
  | 'refused' // no connection at all
  | 'truncated' // the answer has begun and did not end
  | 'timeout' // no whole answer in time
  | 'wrong' // 2xx, but not the answer to this request

export interface Loss {
  kind: LossKind
  detail: string
  /** `GET /slow`, ... */
  route: string
  /** The `x-request-id` of the request. */
  id: string
  /** The task that has answered, as far as headers came. */
  task: string | undefined
  /** The balancer's name for the server it had chosen, as far as headers came. */
  server: string | undefined
  /** The last mark before the request was sent, and how long before. */
  mark: string
  sentMs: number
  endedMs: number
}

export interface LoadResult {
  sent: number
  ok: number
  lost: Loss[]
  /** Requests sent a second, as measured. */
  perSecond: number
  seconds: number
  /** Correct answers by task (the `x-task` header of the fixtures). */
  byTask: Map<string, number>
  byRoute: Map<string, number>
  slowestMs: number
}

export interface Load {
  readonly result: LoadResult
  /** Names this moment; losses count from the last mark. */
  mark: (name: string) => void
  /** Correct answers of a task so far. */
  servedBy: (task: string) => number
  /** Resolves when so many more requests were sent: the clock of a test that has no business with seconds. */
  sent: (count: number) => Promise<void>
  /** Resolves when a task has given so many more correct answers. */
  served: (task: string, count: number) => Promise<void>
  /** Stops sending and waits for the answers to what was sent. */
  stop: () => Promise<LoadResult>
}

interface Shot {
  route: string
  method: 'GET' | 'POST'
  path: string
  body?: string
  /** What is wrong with the answer, or undefined. */
  fault: (response: IncomingMessage, body: Buffer) => string | undefined
}

export function startLoad (t: Owner, options: LoadOptions): Load {
  const { perSecond = 200, seed = 1, timeoutMs = 20_000, socketPath, host, port } = options
  const random = generator(seed)
  const agent = new Agent({ keepAlive: true, maxFreeSockets: Infinity })
  const startMs = performance.now()
  const result: LoadResult = {
    sent: 0, ok: 0, lost: [], perSecond: 0, seconds: 0, byTask: new Map(), byRoute: new Map(), slowestMs: 0
  }
  let mark = { name: 'start', atMs: startMs }
  let timer: NodeJS.Timeout | undefined
  let dueMs = startMs
  let pending = 0
  let stopped = false
  const waiting = new Set<{ done: () => boolean, resolve: () => void }>()

  function settle (): void {
    for (const waiter of waiting) {
      if (!waiter.done()) continue
      waiting.delete(waiter)
      waiter.resolve()
    }
  }

  async function until (done: () => boolean): Promise<void> {
    if (!done()) await new Promise<void>(resolve => waiting.add({ done, resolve }))
  }

  function fire (): void {
    const shot = aim(random)
    const id = String(result.sent++)
    const sentMs = performance.now()
    const from = mark
    let response: IncomingMessage | undefined
    let over = false
    pending++

    function end (kind?: LossKind, detail = ''): void {
      if (over) return
      over = true
      clearTimeout(patience)
      pending--
      const endedMs = performance.now()
      result.slowestMs = Math.max(result.slowestMs, endedMs - sentMs)
      const task = header(response, 'x-task')
      if (kind === undefined) {
        result.ok++
        count(result.byTask, task ?? '?')
        count(result.byRoute, shot.route)
      } else {
        result.lost.push({
          kind,
          detail,
          route: `${shot.method} ${shot.route}`,
          id,
          task,
          server: header(response, 'x-server'),
          mark: from.name,
          sentMs: Math.round(sentMs - from.atMs),
          endedMs: Math.round(endedMs - from.atMs)
        })
      }
      settle()
    }

    const headers: Record<string, string> = { 'x-request-id': id }
    if (shot.body !== undefined) {
      headers['content-type'] = 'application/json'
      headers['content-length'] = String(Buffer.byteLength(shot.body))
    }
    const outgoing = request({ agent, socketPath, host, port, method: shot.method, path: shot.path, headers })
    const patience = setTimeout(() => {
      end('timeout', response === undefined ? 'no answer' : 'no end of the answer')
      outgoing.destroy()
    }, timeoutMs)
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      if (response !== undefined) end('truncated', error.message)
      else end(['ECONNREFUSED', 'ENOENT', 'EAGAIN'].includes(error.code ?? '') ? 'refused' : 'reset', `${error.code ?? ''} ${error.message}`.trim())
    })
    outgoing.on('response', incoming => {
      response = incoming
      const chunks: Buffer[] = []
      incoming.on('data', chunk => chunks.push(chunk))
      incoming.on('error', error => end('truncated', error.message))
      incoming.on('close', () => {
        const body = Buffer.concat(chunks)
        const status = incoming.statusCode ?? 0
        if (!incoming.complete) return end('truncated', `${body.length} bytes of ${incoming.headers['content-length'] ?? 'unknown'}`)
        if (status < 200 || status > 299) return end('status', `${status} ${body.toString().replace(/\s+/g, ' ').slice(0, 120)}`)
        const fault = shot.fault(incoming, body)
        if (fault === undefined) end()
        else end('wrong', fault)
      })
    })
    outgoing.end(shot.body)
  }

  function loop (): void {
    const nowMs = performance.now()
    while (dueMs <= nowMs) {
      fire()
      dueMs -= Math.log(1 - random()) * 1000 / perSecond
    }
    settle()
    timer = setTimeout(loop, dueMs - performance.now())
  }

  async function stop (): Promise<LoadResult> {
    if (!stopped) {
      stopped = true
      clearTimeout(timer)
      result.seconds = (performance.now() - startMs) / 1000
      result.perSecond = result.sent / result.seconds
    }
    await until(() => pending === 0)
    agent.destroy()
    return result
  }

  t.teardown(async () => { await stop() })
  loop()

  return {
    result,
    mark (name) { mark = { name, atMs: performance.now() } },
    servedBy: task => result.byTask.get(task) ?? 0,
    async sent (count) {
      const goal = result.sent + count
      await until(() => result.sent >= goal || stopped)
    },
    async served (task, count) {
      const goal = (result.byTask.get(task) ?? 0) + count
      await until(() => (result.byTask.get(task) ?? 0) >= goal || stopped)
    },
    stop
  }
}

/** One loss in one line, with what the balancer has logged about the same request. */
export function describeLoss (loss: Loss, log: readonly string[] = []): string {
  const seen = log.find(line => line.includes(` id ${loss.id}: `))
  return `${loss.kind} ${loss.detail} | ${loss.route} #${loss.id} sent ${loss.sentMs} ms after "${loss.mark}", ended at ${loss.endedMs} ms` +
    ` | server ${loss.server ?? '?'} task ${loss.task ?? '?'} | balancer: ${seen ?? 'nothing'}`
}

function aim (random: () => number): Shot {
  const dice = random()
  const key = Math.floor(random() * 1e9)
  if (dice < 0.6) {
    return {
      route: '/short',
      method: 'GET',
      path: `/short?key=${key}`,
      fault: (_response, body) => expectText(body, JSON.stringify({ key: String(key) }))
    }
  }
  if (dice < 0.8) {
    const ms = 50 + Math.floor(random() * 450)
    return {
      route: '/slow',
      method: 'GET',
      path: `/slow?key=${key}&ms=${ms}`,
      fault: (_response, body) => expectText(body, JSON.stringify({ key: String(key), ms }))
    }
  }
  if (dice < 0.95) {
    const sent = JSON.stringify({ key, text: 'x'.repeat(1 + Math.floor(random() * 8000)), list: [random(), random()] })
    return {
      route: '/echo',
      method: 'POST',
      path: '/echo',
      body: sent,
      fault: (response, body) => expectText(body, sent) ?? expectSum(response, sent)
    }
  }
  const offset = key % OFFSETS
  return {
    route: '/medium',
    method: 'GET',
    path: `/medium?offset=${offset}`,
    fault (response, body) {
      if (body.length !== MEDIUM_BYTES) return `${body.length} bytes instead of ${MEDIUM_BYTES}`
      return sha1(body) === sha1(medium(offset)) ? expectSum(response, body) : 'other bytes'
    }
  }
}

function expectText (body: Buffer, wanted: string): string | undefined {
  const text = body.toString()
  return text === wanted ? undefined : `"${text.slice(0, 80)}" instead of "${wanted.slice(0, 80)}"`
}

function expectSum (response: IncomingMessage, body: string | Buffer): string | undefined {
  return header(response, 'x-sum') === sha1(body) ? undefined : 'other checksum'
}

function header (response: IncomingMessage | undefined, name: string): string | undefined {
  const value = response?.headers[name]
  return Array.isArray(value) ? value[0] : value
}

function count (map: Map<string, number>, key: string): void {
  map.set(key, (map.get(key) ?? 0) + 1)
}

// --- What both sides have to agree about: the fixtures import it from here ---

export const MEDIUM_BYTES = 200_000
const OFFSETS = 64
const pattern = Buffer.from(Array.from({ length: MEDIUM_BYTES + OFFSETS }, (_, index) => (index * 31 + (index >> 8)) & 255))

export function medium (offset: number): Buffer {
  return pattern.subarray(offset, offset + MEDIUM_BYTES)
}

export function sha1 (data: string | Buffer): string {
  return createHash('sha1').update(data).digest('hex')
}

/** mulberry32: small, seeded, good enough to deal cards. */
export function generator (seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6D2B79F5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}
