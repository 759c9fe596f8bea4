import type { FastifyInstance } from 'fastify'
import type { ToadScheduler } from 'toad-scheduler'
import type { JobContext } from '../../types/index.js'
import { FARGATE_ERR_BAD_ARGUMENT } from '../errors.js'
import { show } from '../settings.js'

export interface ScheduleOptions {
  /**
   * The scheduler.
   * @default the one of `@fastify/schedule`: `fastify.scheduler`
   */
  scheduler?: ToadScheduler
}

type Handler = (taskId?: string, jobId?: string, context?: JobContext) => unknown

/** What all kinds of tasks and jobs have, whether they show it or not. */
interface Task { isAsync: boolean, handler: Handler }
interface Job { task: Task }

/**
 * Stops a scheduler of `toad-scheduler` when draining begins, and holds the exit until the jobs that run have ended. They
 * are awaited before the `onClose` hooks of pools run. A task's handler gets `{ signal, abortSignal, remaining() }` as
 * its third argument.
 *
 * @param fastify with `fastify-fargate`, and with `@fastify/schedule` unless there is another scheduler in the options
 * @throws FARGATE_ERR_BAD_ARGUMENT
 */
export function addSchedule (fastify: FastifyInstance, options: ScheduleOptions = {}): void {
  const { shutdown } = fastify
  const scheduler = options.scheduler ?? (fastify as { scheduler?: ToadScheduler }).scheduler
  if (typeof scheduler?.addIntervalJob !== 'function') {
    throw new FARGATE_ERR_BAD_ARGUMENT('addSchedule', 'a scheduler of toad-scheduler, or @fastify/schedule registered before', show(scheduler))
  }

  const watched = new WeakSet<Task>()
  const watch = ({ task }: Job) => {
    if (watched.has(task)) return
    watched.add(task)
    const { handler } = task
    task.handler = (taskId, jobId) => {
      // A job that was added or started while draining.
      if (shutdown.signal.aborted) return Promise.resolve()
      // Neither library looks at what its ids are.
      const name = String(jobId || taskId || 'task')
      if (task.isAsync) return shutdown.run(name, (context) => handler(taskId, jobId, context))
      const result = handler(taskId, jobId, shutdown)
      // `new Task('id', async () => ...)`: its library does not look at the promise, so nobody else tells of a failure.
      if (result instanceof Promise) shutdown.waitUntil(name, result)
      return result
    }
  }

  // Those that are there, also the ones without an id, which the scheduler does not list.
  const { engines } = scheduler as unknown as { engines: Record<string, { jobs: Job[] } | undefined> }
  for (const engine of Object.values(engines)) engine?.jobs.forEach(watch)
  for (const method of ['addIntervalJob', 'addCronJob'] as const) {
    const add = scheduler[method].bind(scheduler) as (job: unknown) => void
    scheduler[method] = (job: unknown) => {
      watch(job as Job)
      add(job)
    }
  }

  shutdown.addWorker({ name: 'schedule', stop: () => { scheduler.stop() } })
}
