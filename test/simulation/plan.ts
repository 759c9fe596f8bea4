// What a run of the simulation is made of: a configuration, and what happens when. All times in milliseconds.

import fc from 'fast-check'

export type Behaviour = 'resolves' | 'rejects' | 'throws' | 'hangs'

/** What a handler does with its response. */
export type Answer =
  | 'answers' // after durationMs
  | 'never answers'
  | 'streams, and ends when closing begins'
  | 'streams for ever'
  | 'begins, and ends' // a chunked response that takes durationMs

export interface PlannedRequest {
  /** From the first trigger on; negative: before it. */
  atMs: number
  answer: Answer
  durationMs: number
  /** On a connection of its own, or on one that is kept alive. */
  isReused: boolean
  /** The client goes away, so long after its request. */
  abortsAfterMs: number | undefined
  /** Not through the load balancer: `config: { shutdown: { traffic: false } }`. */
  isScraper: boolean
}

export interface PlannedHook {
  /** `run` and `waitUntil`: a job that begins just before the first trigger. `worker`: what it does when it is told to stop. */
  kind: 'onDraining' | 'onClosing' | 'preClose' | 'onClose' | 'run' | 'waitUntil' | 'worker'
  behaviour: Behaviour
  ms: number
  /** It gives up when it is told to. */
  isCooperative: boolean
}

export interface PlannedWebSocket {
  atMs: number
  /** `undefined`: never. */
  answersAfterMs: number | undefined
}

export type TriggerKind = 'SIGTERM' | 'SIGINT' | 'uncaughtException' | 'unhandledRejection' | 'begin' | 'begin and exit' | 'fastify.close()'

export interface Trigger {
  /** After the one before it. */
  afterMs: number
  kind: TriggerKind
}

export interface Plan {
  env: Record<string, string>
  strategy: 'traffic' | 'delay' | 'none' | 'function'
  functionBehaviour: Behaviour
  functionMs: number
  forceCloseConnections: boolean
  boot: { pluginsMs: number, listenMs: number, startupFailures: number, isInterrupted: boolean }
  /** The load balancer's traffic before the first trigger: so many requests, one every so many milliseconds. */
  before: { count: number, everyMs: number, silenceMs: number }
  /** The balancer's nodes: each goes on sending until it learns, counted from the first trigger. */
  nodes: Array<{ learnsAfterMs: number, everyMs: number }>
  requests: PlannedRequest[]
  /** For the readiness route. */
  probesAtMs: number[]
  hooks: PlannedHook[]
  webSockets: PlannedWebSocket[]
  triggers: Trigger[]
  /** Another instance in the process, with hooks of its own. */
  other: PlannedHook[] | undefined
}

const behaviour = fc.constantFrom<Behaviour>('resolves', 'resolves', 'rejects', 'throws', 'hangs')
const around = fc.oneof(fc.integer({ min: -2000, max: 2000 }), fc.integer({ min: -100, max: 35_000 }), fc.constantFrom(-1, 0, 1, 99, 100, 101))
const duration = fc.oneof(fc.constantFrom(0, 1, 100), fc.integer({ min: 0, max: 3000 }), fc.integer({ min: 0, max: 40_000 }))

const silenceMs = fc.constantFrom(0, 10, 300, 2500, 60_000)

const hook: fc.Arbitrary<PlannedHook> = fc.record({
  kind: fc.constantFrom('onDraining', 'onClosing', 'preClose', 'onClose', 'run', 'waitUntil', 'worker'),
  behaviour,
  ms: duration,
  isCooperative: fc.boolean()
})

const request: fc.Arbitrary<PlannedRequest> = fc.record({
  atMs: around,
  answer: fc.constantFrom<Answer>('answers', 'answers', 'answers', 'never answers', 'begins, and ends', 'streams, and ends when closing begins', 'streams for ever'),
  durationMs: duration,
  isReused: fc.boolean(),
  abortsAfterMs: fc.option(duration, { nil: undefined, freq: 8 }),
  isScraper: fc.boolean()
})

const optional = (arbitrary: fc.Arbitrary<string>) => fc.option(arbitrary, { nil: undefined, freq: 2 })

export const plan: fc.Arbitrary<Plan> = fc.record({
  env: fc.record({
    FARGATE_STOP_TIMEOUT: optional(fc.constantFrom('2', '3', '10', '60', '120')),
    FARGATE_DEREGISTRATION_DELAY: optional(fc.constantFrom('0', '1', '5', '20', '300')),
    FARGATE_QUIET: optional(fc.constantFrom('0', '100ms', '100ms', '500ms', '3')),
    FARGATE_CRASH: optional(fc.constantFrom('close', 'drain', 'exit')),
    FARGATE_STOP_SIGNAL: optional(fc.constantFrom('SIGTERM', 'SIGINT')),
    FARGATE_WEBSOCKET_CLOSE: optional(fc.constantFrom('closing', 'draining', 'none')),
    FARGATE_WEBSOCKET_PACE: optional(fc.constantFrom('0', '500ms', '10')),
    ECS_CONTAINER_METADATA_URI_V4: optional(fc.constant('http://169.254.170.2/v4/x'))
  }).map((env) => Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined))),
  strategy: fc.constantFrom('traffic', 'traffic', 'traffic', 'delay', 'none', 'function'),
  functionBehaviour: behaviour,
  functionMs: duration,
  forceCloseConnections: fc.boolean(),
  boot: fc.record({
    pluginsMs: fc.constantFrom(0, 0, 50, 3000),
    listenMs: fc.constantFrom(0, 0, 50),
    startupFailures: fc.constantFrom(0, 0, 0, 1, 3),
    isInterrupted: fc.constantFrom(false, false, false, false, true)
  }),
  before: fc.oneof(
    { weight: 4, arbitrary: fc.record({ count: fc.constantFrom(0, 1, 30), everyMs: fc.constantFrom(5, 50, 2000), silenceMs }) },
    { weight: 3, arbitrary: fc.record({ count: fc.constant(150), everyMs: fc.constantFrom(50, 100, 2000), silenceMs }) },
    // Enough for the floor of silence to be what counts.
    { weight: 1, arbitrary: fc.record({ count: fc.constant(1300), everyMs: fc.constant(25), silenceMs }) }
  ),
  nodes: fc.array(fc.record({ learnsAfterMs: fc.integer({ min: -500, max: 17_000 }), everyMs: fc.constantFrom(200, 1000, 4000) }), { maxLength: 2 }),
  requests: fc.array(request, { maxLength: 5 }),
  probesAtMs: fc.array(around, { maxLength: 3 }),
  hooks: fc.array(hook, { maxLength: 3 }),
  webSockets: fc.array(fc.record({
    atMs: around,
    answersAfterMs: fc.option(fc.constantFrom(0, 1, 50, 5000), { nil: undefined })
  }), { maxLength: 3 }),
  triggers: fc.array(fc.record({
    afterMs: fc.oneof(fc.constantFrom(0, 1, 249, 250, 251), fc.integer({ min: 0, max: 30_000 })),
    kind: fc.constantFrom<TriggerKind>('SIGTERM', 'SIGTERM', 'SIGTERM', 'SIGTERM', 'SIGINT', 'uncaughtException', 'unhandledRejection', 'begin', 'begin and exit', 'fastify.close()')
  }), { minLength: 1, maxLength: 4 }),
  other: fc.option(fc.array(hook, { maxLength: 2 }), { nil: undefined, freq: 3 })
})
