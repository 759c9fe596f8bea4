import { sleep } from '../clock.js'
import { type Waiting } from './waiting.js'

/** The whole window, whatever comes. */
export async function delay ({ clock, countdown, timeline }: Waiting, signal: AbortSignal): Promise<string> {
  await sleep(clock, timeline.drainEnd - countdown.elapsed(), signal)
  return `the whole deregistration delay of ${timeline.drainEnd / 1000} s was waited for`
}
