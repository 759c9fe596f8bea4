import type { ChangeMessageVisibilityCommand, Message, SQSClient } from '@aws-sdk/client-sqs'
import type { FastifyInstance } from 'fastify'
import type { Consumer, ConsumerOptions } from 'sqs-consumer'
import type { JobContext } from '../../types/index.js'
import { FARGATE_ERR_BAD_ARGUMENT, FARGATE_ERR_DRAINING } from '../errors.js'
import { show } from '../settings.js'
import { attempt } from './attempt.js'

/** The libraries, as the application has installed them. */
export interface SqsLibraries {
  Consumer: { create (options: ConsumerOptions): Consumer }
  ChangeMessageVisibilityCommand: typeof ChangeMessageVisibilityCommand
}

/** Those of `sqs-consumer`; a handler is also told when to give up. */
export interface SqsConsumerOptions extends Omit<ConsumerOptions, 'handleMessage' | 'handleMessageBatch' | 'sqs'> {
  sqs: SQSClient
  /**
   * For log and report.
   * @default the last part of the queue's URL
   */
  name?: string
  handleMessage?: (message: Message, context: JobContext) => Promise<Message | undefined>
  handleMessageBatch?: (messages: Message[], context: JobContext) => Promise<Message[] | undefined>
}

/** What the commands of SQS have in them that matters here. */
interface Input {
  MaxNumberOfMessages?: number
  ReceiptHandle?: string
  VisibilityTimeout?: number
  Entries?: Array<{ ReceiptHandle?: string, VisibilityTimeout?: number }>
}
type Send = (command: { input: Input }, options?: { abortSignal?: AbortSignal }) => Promise<{ Failed?: unknown[] }>

/**
 * A consumer of `sqs-consumer` that loses nothing in a stop. When draining begins it polls no more; the poll in flight is
 * waited for, until the abort mark at the latest, and what it brings goes back at once, since SQS would hide what it
 * hands to an aborted poll. Handlers finish, and their messages are deleted. One that gives up after its `abortSignal`
 * gives its message back.
 *
 * @returns the consumer, not started
 * @throws FARGATE_ERR_BAD_ARGUMENT
 */
export function createSqsConsumer (fastify: FastifyInstance, libraries: SqsLibraries, options: SqsConsumerOptions): Consumer {
  const { Consumer, ChangeMessageVisibilityCommand } = checked(libraries)
  const { log, shutdown } = fastify
  const { name: given, handleMessage, handleMessageBatch, sqs, ...rest } = options
  if (typeof sqs?.send !== 'function') throw new FARGATE_ERR_BAD_ARGUMENT('createSqsConsumer', 'an SQSClient in the option sqs', show(sqs))
  const name = `sqs ${given ?? options.queueUrl?.split('/').at(-1)}`
  const send = sqs.send.bind(sqs) as Send
  /** Receipt handles of what was given back: nothing may hide it again. */
  const released = new Set<string | undefined>()
  let handling = 0
  let givingBack = 0
  let givenBack = 0

  const giveBack = async (messages: Message[], why: string) => {
    givingBack++
    await Promise.all(messages.map(async ({ MessageId, ReceiptHandle }) => {
      released.add(ReceiptHandle)
      try {
        await sqs.send(new ChangeMessageVisibilityCommand({ QueueUrl: options.queueUrl, ReceiptHandle, VisibilityTimeout: 0 }))
        givenBack++
      } catch (err) {
        log.warn({ err, messageId: MessageId }, `${name}: could not give a message back, so it comes back when its visibility timeout ends`)
      }
    }))
    // One line for all messages of a poll, each of which has come here by itself.
    if (--givingBack > 0 || givenBack === 0) return
    log.info(`${name}: gave ${givenBack} back that ${why}`)
    givenBack = 0
  }

  const handle = async <T>(messages: Message[], fn: (context: JobContext) => Promise<T>): Promise<T | undefined> => {
    if (shutdown.signal.aborted) {
      await giveBack(messages, 'the last poll has brought')
      // Else it would be deleted, whatever the handler says.
      if (options.alwaysAcknowledge === true) throw new FARGATE_ERR_DRAINING(name)
      return undefined
    }
    handling += messages.length
    try {
      const outcome = await attempt(shutdown, name, fn)
      if (outcome.isDone) return outcome.value
      if (outcome.isAborted) await giveBack(messages, 'could not be finished')
      throw outcome.error
    } finally {
      handling -= messages.length
    }
  }

  /** As the client's own, but nobody aborts a delete: its message has been processed. */
  const guarded: Send = async (command, { abortSignal } = {}) => {
    const { input } = command
    if (input.MaxNumberOfMessages !== undefined) return await poll(command, abortSignal)
    const entries = input.Entries ?? [input]
    const isDelete = entries.every(({ VisibilityTimeout }) => VisibilityTimeout === undefined)
    if (!isDelete) return entries.some(({ ReceiptHandle }) => released.has(ReceiptHandle)) ? {} : await send(command)
    const deleted = send(command)
    follow(deleted.then(refuseFailed))
    return await deleted
  }

  /** A delete that fails during the stop is named, also one that was on its way when the stop began: nobody tries again. */
  const follow = (deleted: Promise<void>) => {
    const title = `${name}: delete after processing`
    if (shutdown.signal.aborted) shutdown.waitUntil(title, deleted)
    else deleted.catch((error: unknown) => { if (shutdown.signal.aborted) shutdown.waitUntil(title, Promise.reject(error)) })
  }

  const poll = async (command: { input: Input }, ...until: Array<AbortSignal | undefined>) => {
    const controller = new AbortController()
    const abort = () => { controller.abort() }
    const signals = [shutdown.abortSignal, ...until].filter((signal) => signal !== undefined)
    for (const signal of signals) signal.addEventListener('abort', abort)
    if (signals.some(({ aborted }) => aborted)) abort()
    try {
      return await send(command, { abortSignal: controller.signal })
    } finally {
      for (const signal of signals) signal.removeEventListener('abort', abort)
    }
  }

  const consumer = Consumer.create({
    ...rest,
    sqs: Object.create(sqs, { send: { value: guarded } }) as SQSClient,
    ...(handleMessage !== undefined && { handleMessage: (message) => handle([message], (context) => handleMessage(message, context)) }),
    ...(handleMessageBatch !== undefined && { handleMessageBatch: (messages) => handle(messages, (context) => handleMessageBatch(messages, context)) })
  })
  shutdown.addWorker({
    name,
    stop: () => { consumer.stop() },
    active: () => consumer.status.isPolling ? Math.max(1, handling) : 0
  })
  return consumer
}

function checked (libraries: SqsLibraries): SqsLibraries {
  if (typeof libraries?.Consumer?.create === 'function' && typeof libraries.ChangeMessageVisibilityCommand === 'function') return libraries
  throw new FARGATE_ERR_BAD_ARGUMENT('createSqsConsumer', '{ Consumer } of sqs-consumer and { ChangeMessageVisibilityCommand } of @aws-sdk/client-sqs', show(libraries))
}

function refuseFailed ({ Failed = [] }: { Failed?: unknown[] }): void {
  if (Failed.length > 0) throw new Error(`${Failed.length} messages were processed, and not deleted`)
}
