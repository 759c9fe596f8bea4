/**
 * The marks of a stop: offsets in milliseconds from the first stop signal. Computed once from the configuration;
 * everything else only walks them. Each is a bound, not a sleep.
 */
export interface Timeline {
  /** Without evidence draining ends here, unless traffic still comes. */
  readonly drainEnd: number
  /** Draining ends here, whatever comes. */
  readonly drainLimit: number
  /** `abortSignal` fires: give up now. */
  readonly abort: number
  /** Streams and WebSockets that go on are cut: what is left is for `onClose` hooks. */
  readonly streamLimit: number
  /** The holders are named, sockets destroyed. */
  readonly deadline: number
  /** The process exits even if naming and logging the holders hangs. */
  readonly backstop: number
  /** SIGKILL by ECS. */
  readonly stopTimeout: number
  /** No mark but a duration: how long a client has to hang up that was told to go (a close frame, GOAWAY). */
  readonly goodbyeGrace: number
}

/** All in seconds, as in the configuration. */
export interface TimelineInput {
  stopTimeout: number
  deregistrationDelay: number
  margin: number
  closeReserve: number
  abortGrace: number
}

export function computeTimeline (config: TimelineInput): Timeline {
  const deadline = config.stopTimeout - config.margin
  const drainLimit = deadline - config.closeReserve
  return Object.freeze({
    drainEnd: ms(Math.min(config.deregistrationDelay, drainLimit)),
    drainLimit: ms(drainLimit),
    abort: ms(deadline - config.abortGrace),
    streamLimit: ms(deadline - config.abortGrace / 2),
    deadline: ms(deadline),
    backstop: ms(deadline + config.margin / 2),
    stopTimeout: ms(config.stopTimeout),
    goodbyeGrace: ms(config.closeReserve / 2)
  })
}

function ms (seconds: number): number {
  return Math.round(seconds * 1000)
}
