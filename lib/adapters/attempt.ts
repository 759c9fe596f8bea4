import type { JobContext, Shutdown } from '../../types/index.js'

export type Outcome<T> = { isDone: true, value: T } | { isDone: false, error: unknown, isAborted: boolean }

/** Runs a job that its queue has again when it fails: that is no failure of the stop. */
export function attempt<T> (shutdown: Shutdown, name: string, fn: (context: JobContext) => T | PromiseLike<T>): Promise<Outcome<T>> {
  return shutdown.run(name, async (context): Promise<Outcome<T>> => {
    try {
      return { isDone: true, value: await fn(context) }
    } catch (error) {
      return { isDone: false, error, isAborted: context.abortSignal.aborted }
    }
  })
}
