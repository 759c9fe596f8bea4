import type { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { type Clock, sleep } from './clock.js'

/** How long the last lines may take to be written. */
export const FLUSH_LIMIT_MS = 500
/** What a transport's target may still have in hands when its thread has taken everything; nothing tells when it is done. */
const TARGET_MS = 200

interface Destination extends EventEmitter {
  _writing?: boolean
  end?: () => void
  flushSync?: () => void
  worker?: unknown
}

/**
 * Resolves when what was logged has been handed to the kernel, or to the transport's thread and from there on. Never
 * rejects. `process.exit()` alone loses the chunk that an asynchronous destination is writing to a slow pipe, and the
 * last lines of a transport whose target is asynchronous.
 */
export async function flushLog (log: FastifyBaseLogger, clock: Clock): Promise<void> {
  const destination = destinationOf(log)
  if (destination === undefined) return
  if (destination.worker !== undefined) {
    // A transport. First the thread takes everything over, then its target has some time, then the thread ends: in this
    // order, since a thread that is told to end does not wait for a target that is asynchronous.
    destination.flushSync?.()
    await sleep(clock, TARGET_MS)
    const closed = new Promise((resolve) => { destination.once('close', resolve) })
    destination.end?.()
    await sleep(clock, FLUSH_LIMIT_MS, closed)
    return
  }
  if (destination._writing === true) {
    await sleep(clock, FLUSH_LIMIT_MS, new Promise((resolve) => { destination.once('drain', resolve) }))
  }
}

/** pino keeps its stream under a symbol; other loggers have none, and nothing to wait for. */
function destinationOf (log: object): Destination | undefined {
  for (let object: object | null = log; object !== null; object = Object.getPrototypeOf(object) as object | null) {
    const symbol = Object.getOwnPropertySymbols(object).find(({ description }) => description === 'pino.stream')
    if (symbol !== undefined) return (object as Record<symbol, Destination>)[symbol]
  }
  return undefined
}
