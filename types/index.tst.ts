import { createServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import Fastify from 'fastify'
import fargate, { fastifyFargate, type FargateOptions, type ShutdownReport, type State } from 'fastify-fargate'
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
  expect<ShutdownReport['cut'][number]['kind']>().type.toBe<'request' | 'response' | 'stream' | 'websocket' | 'connection' | 'hook'>()
})
