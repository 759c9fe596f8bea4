import type { Job, Processor, Worker, WorkerOptions } from 'bullmq'
import type { FastifyInstance } from 'fastify'
import { FARGATE_ERR_BAD_ARGUMENT } from '../errors.js'
import { show } from '../settings.js'
import { attempt } from './attempt.js'

export interface BullmqLibrary {
  Worker: new (queue: string, processor: Processor | string | URL | null, options: WorkerOptions) => Worker
}

/**
 * A worker of BullMQ that ends with the service, within its deadline: unlike its own `close()`, which waits for ever for a
 * job that hangs, or for Redis. When draining begins it fetches no more jobs; one that was fetched at that very moment
 * goes back. At the abort mark the third argument of the processor, a signal, is aborted; a job that rejects then goes back
 * to the queue, and does not count as failed.
 *
 * @param queue its name; the worker is `bullmq <queue>` in log and report
 * @throws FARGATE_ERR_BAD_ARGUMENT
 */
export function createBullmqWorker (
  fastify: FastifyInstance, library: BullmqLibrary, queue: string, processor: Processor | string | URL | null, options: WorkerOptions
): Worker {
  if (typeof library?.Worker !== 'function') throw new FARGATE_ERR_BAD_ARGUMENT('createBullmqWorker', '{ Worker } of bullmq', show(library))
  const { log, shutdown } = fastify
  const name = `bullmq ${queue}`
  let active = 0

  const giveBack = async (job: Job, token: string | undefined, why: string): Promise<never> => {
    await job.moveToWait(token)
    log.info(`${name}: gave job ${job.id} back, which ${why}`)
    // BullMQ knows it by its name: the job has been moved already.
    throw Object.assign(new Error(`The service stops: ${why}`), { name: 'WaitingError' })
  }

  // A file runs in a process or a thread of its own.
  const guarded = typeof processor !== 'function'
    ? processor
    // BullMQ looks at the number of parameters before it makes a signal.
    : async (job: Job, token: string | undefined, signal: AbortSignal | undefined) => {
      if (shutdown.signal.aborted) return await giveBack(job, token, 'came too late')
      active++
      try {
        const outcome = await attempt(shutdown, `${name} ${job.name}`, () => processor(job, token, signal))
        if (outcome.isDone) return outcome.value
        if (outcome.isAborted) return await giveBack(job, token, 'could not be finished')
        throw outcome.error
      } finally {
        active--
      }
    }

  const worker = new library.Worker(queue, guarded, options)
  let closed: Promise<void> | undefined
  shutdown.addWorker({
    name,
    stop ({ signal }) {
      // Ends when its last job has been moved, too.
      closed = worker.close()
      signal.addEventListener('abort', () => { worker.cancelAllJobs('The service stops') })
    },
    async drain ({ signal }) {
      // Without a job only its connection is left, and Redis may be what does not answer.
      await Promise.race([closed, idleAt(signal)])
    },
    active: () => active
  })
  return worker

  function idleAt (signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      signal.addEventListener('abort', () => {
        // Of a file nobody can tell whether it has a job.
        if (active > 0 || guarded === processor) return
        log.warn(`${name}: its connection to Redis did not close in time`)
        resolve()
      })
    })
  }
}
