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
