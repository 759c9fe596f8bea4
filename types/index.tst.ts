import { ChangeMessageVisibilityCommand, SQSClient, type Message } from '@aws-sdk/client-sqs'
import { Worker as BullmqWorker } from 'bullmq'
import { Consumer } from 'sqs-consumer'
import { ToadScheduler } from 'toad-scheduler'
import { createServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import Fastify from 'fastify'
import fargate, { fastifyFargate, type FargateOptions, type JobContext, type ShutdownReport, type State, type Worker } from 'fastify-fargate'
import { createBullmqWorker } from 'fastify-fargate/bullmq'
import { addSchedule } from 'fastify-fargate/schedule'
import { createSqsConsumer } from 'fastify-fargate/sqs-consumer'
import { expect, test } from 'tstyche'

test('the plugin is the default export and a named one', () => {
  expect(fargate).type.toBe<typeof fastifyFargate>()
})

test('the plugin registers with and without options', () => {
  const app = Fastify()
  expect(app.register).type.toBeCallableWith(fastifyFargate)
  expect(app.register).type.toBeCallableWith(fastifyFargate, { stopTimeout: 30 })
  expect(app.register).type.not.toBeCallableWith(fastifyFargate, { stopTimeout: {} })
})

test('the state is one of five', () => {
  expect<State>().type.toBe<'starting' | 'ready' | 'draining' | 'closing' | 'closed'>()
  expect(Fastify().shutdown.state).type.toBe<State>()
})

test('every option may be left out', () => {
  expect<FargateOptions>().type.toBeAssignableFrom({})
})

test('the report is an object', () => {
  expect<ShutdownReport>().type.toBeAssignableTo<object>()
})

test('WebSocket settings are what the README says', () => {
  expect<FargateOptions>().type.toBeAssignableFrom({ websocketClose: 'draining' as const, websocketPace: '10s' })
  expect<FargateOptions>().type.not.toBeAssignableFrom({ websocketClose: 'later' })
})

test('streams listen to a signal, and further listeners may be added', () => {
  const { shutdown } = Fastify()
  expect(shutdown.closingSignal).type.toBe<AbortSignal>()
  expect(shutdown.addServer).type.toBeCallableWith(createServer())
  expect(shutdown.addServer).type.toBeCallableWith(createHttp2Server())
  expect(shutdown.addServer).type.toBeCallableWith(createHttpsServer())
  expect(shutdown.addServer).type.not.toBeCallableWith({})
})

test('a holder is of a kind that can be told apart', () => {
  expect<ShutdownReport['cut'][number]['kind']>().type.toBe<'request' | 'response' | 'stream' | 'websocket' | 'connection' | 'hook' | 'job' | 'worker'>()
})

test('a job is told, and its result is the caller\'s', () => {
  const { shutdown } = Fastify()
  expect(shutdown.run('a', () => 3)).type.toBe<Promise<number>>()
  expect(shutdown.run('a', async ({ signal, abortSignal, remaining }) => [signal, abortSignal, remaining()] as const)).type.toBe<Promise<readonly [AbortSignal, AbortSignal, number]>>()
  expect(shutdown.run).type.toBeCallableWith('a', () => {}, { timeout: 5 })
  expect(shutdown.run).type.not.toBeCallableWith('a', () => {}, { timeout: '5s' })
  expect(shutdown.run).type.not.toBeCallableWith(() => {})
  expect(shutdown.waitUntil).type.toBeCallableWith('a', Promise.resolve(3), { timeout: 5 })
  expect(shutdown.waitUntil).type.not.toBeCallableWith('a', 3)
})

test('a worker has a name and a stop, and perhaps more', () => {
  expect<Worker>().type.toBeAssignableFrom({ name: 'a', stop () {} })
  expect<Worker>().type.toBeAssignableFrom({ name: 'a', stop: async () => {}, drain: async () => {}, active: () => 3 })
  expect<Worker>().type.not.toBeAssignableFrom({ name: 'a' })
  expect<Worker>().type.not.toBeAssignableFrom({ name: 'a', stop () {}, active: 3 })
})

test('adapters take the real libraries', () => {
  const app = Fastify()
  expect(addSchedule).type.toBeCallableWith(app)
  expect(addSchedule).type.toBeCallableWith(app, { scheduler: new ToadScheduler() })
  const libraries = { Consumer, ChangeMessageVisibilityCommand }
  const sqs = new SQSClient()
  expect(createSqsConsumer(app, libraries, { queueUrl: 'x', sqs, handleMessage: async (message: Message, { abortSignal }: JobContext) => abortSignal.aborted ? undefined : message })).type.toBe<Consumer>()
  expect(createSqsConsumer).type.not.toBeCallableWith(app, libraries, { queueUrl: 'x' })
  expect(createBullmqWorker(app, { Worker: BullmqWorker }, 'orders', async (job, token, signal) => [job.id, token, signal], { connection: {} })).type.toBe<BullmqWorker>()
  expect(createBullmqWorker).type.not.toBeCallableWith(app, { Worker: BullmqWorker }, 'orders', async () => {})
})
