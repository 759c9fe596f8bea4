import t from 'tap'
import { bootWarnings, type BootFacts } from '../lib/bootchecks.js'
import { resolveConfig, type Environment } from '../lib/config.js'
import { type FargateOptions } from '../types/index.js'

const ECS: Environment = { ECS_CONTAINER_METADATA_URI_V4: 'http://169.254.170.2/v4/x' }

function warnings (facts: Partial<BootFacts>, env: Environment = ECS, options: FargateOptions = {}): string[] {
  return bootWarnings({
    config: resolveConfig(options, env),
    addresses: ['0.0.0.0'],
    keepAliveTimeoutMs: 72_000,
    foreignListeners: 0,
    initCommand: undefined,
    ...facts
  })
}

t.test('a service with nothing wrong gets no warning', async (t) => {
  t.strictSame(warnings({}), [])
  t.strictSame(warnings({}, {}), [])
})

t.test('the warnings of the configuration are among them', async (t) => {
  const config = resolveConfig({ deregistrationDelay: 300 }, {})
  t.ok(config.warnings.length > 0)
  t.strictSame(warnings({ config }), config.warnings)
})

t.test('another SIGTERM listener, everywhere: how many, and what to do', async (t) => {
  for (const env of [{}, ECS]) {
    const [one, ...others] = warnings({ foreignListeners: 1 }, env)
    t.match(one, /^1 other SIGTERM listener is installed .* Start the service with node, and remove other signal handlers/)
    t.strictSame(others, [])
  }
  t.match(warnings({ foreignListeners: 2 }), [/^2 other SIGTERM listeners are installed/])
})

t.test('a keepAliveTimeout not above the 60 s of an ALB', async (t) => {
  t.match(warnings({ keepAliveTimeoutMs: 5000 }), [/^keepAliveTimeout 5000 ms is not above the idle timeout of an ALB \(60 s .*72000\)/])
  t.equal(warnings({ keepAliveTimeoutMs: 60_000 }).length, 1)
  t.strictSame(warnings({ keepAliveTimeoutMs: 60_001 }), [])
  t.strictSame(warnings({ keepAliveTimeoutMs: 0 }), [], '0 is no limit at all')
})

t.test('listening on the loopback interface only', async (t) => {
  for (const addresses of [['127.0.0.1'], ['::1'], ['127.0.0.1', '::1'], ['127.0.0.53']]) {
    t.match(warnings({ addresses }), [`The service listens on ${addresses.join(', ')} only, so no load balancer can reach it. Listen on host '0.0.0.0' or '::'.`])
  }
  for (const addresses of [['0.0.0.0'], ['::'], ['127.0.0.1', '10.0.0.7'], ['/tmp/socket'], []]) t.strictSame(warnings({ addresses }), [], addresses.join())
})

t.test('a process 1 that does not pass SIGTERM on', async (t) => {
  for (const initCommand of [
    'npm start', '/usr/local/bin/npm run start', 'yarn start', 'pnpm start', 'sh -c node server.js', '/bin/sh -c node a; node b', 'bash start.sh',
    '/bin/bash run', 'dash x', 'ash x', 'node --run start'
  ]) {
    t.match(warnings({ initCommand }), [/^Process 1 of this container is ".*", which does not pass SIGTERM on\. .*CMD \["node", "server\.js"\]/], initCommand)
  }
  for (const initCommand of [
    undefined, '', '/sbin/docker-init -- node server.js', 'tini -- node x', 'dumb-init node x', 'node server.js', '/usr/bin/node npm.js', 'shuttle run',
    '/opt/npmish'
  ]) t.strictSame(warnings({ initCommand }), [], String(initCommand))
})

t.test('a long command is shown in part', async (t) => {
  const [warning] = warnings({ initCommand: 'npm ' + 'x'.repeat(200) })
  t.ok(warning!.includes('"npm ' + 'x'.repeat(76) + '"'))
})

t.test('outside ECS neither the container nor the load balancer is spoken of', async (t) => {
  t.strictSame(warnings({ keepAliveTimeoutMs: 5000, addresses: ['127.0.0.1'], initCommand: 'npm start' }, {}), [])
})

t.test('where nothing waits for a load balancer only the container is spoken of', async (t) => {
  const found = warnings({ keepAliveTimeoutMs: 5000, addresses: ['127.0.0.1'], initCommand: 'npm start' }, ECS, { deregistration: 'none' })
  t.match(found, [/^Process 1/])
  t.equal(found.length, 1)
})

t.test('one does not hide another', async (t) => {
  t.equal(warnings({ foreignListeners: 1, keepAliveTimeoutMs: 5000, addresses: ['127.0.0.1'], initCommand: 'npm start' }).length, 4)
})
