// What a stop does with connections: the time from the last byte to the exit, the longest stall of the event loop and the
// memory it takes, with 10,000 idle keep-alive connections, 500 requests in flight, 1,000 WebSockets and 1,000 streams.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { WebSocket } from 'ws'

const request = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`

/** Opens so many, in portions, so that the listen queue holds them. */
async function many (count, open) {
  for (let i = 0; i < count; i += 100) await Promise.all(Array.from({ length: Math.min(100, count - i) }, open))
}

async function stop ({ idle = 0, busy = 0, webSockets = 0, streams = 0 }) {
  const server = fork(new URL('connections-server.js', import.meta.url), { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  const [{ port }] = await once(server, 'message')
  const open = async () => {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    return socket.on('error', () => {})
  }
  const done = { answered: 0, told: 0, ended: 0 }
  let lastByteAt = 0
  const byte = () => { lastByteAt = performance.now() }

  await many(idle, async () => {
    const socket = await open()
    socket.write(request('/'))
    await once(socket, 'data')
    socket.resume()
  })
  await many(webSockets, async () => {
    const client = new WebSocket(`ws://127.0.0.1:${port}/live`)
    client.on('close', (code) => {
      if (code === 1001) done.told++
      byte()
    })
    await once(client, 'message')
  })
  await many(streams, async () => {
    const socket = await open()
    socket.write(request('/events'))
    await once(socket, 'data')
    socket.on('data', (chunk) => {
      if (String(chunk).endsWith('0\r\n\r\n')) done.ended++
      byte()
    })
  })
  await many(busy, async () => {
    const socket = await open()
    socket.on('data', (chunk) => {
      if (String(chunk).startsWith('HTTP/1.1 200 ')) done.answered++
      byte()
    })
    socket.write(request('/slow'))
  })
  let measured
  server.on('message', (message) => { measured = message })
  await new Promise((resolve) => setTimeout(resolve, 300))
  const signalledAt = performance.now()
  server.kill('SIGTERM')
  const [code] = await once(server, 'exit')
  const exitedAt = performance.now()
  await new Promise((resolve) => setImmediate(resolve))
  const after = lastByteAt > signalledAt ? `${Math.round(exitedAt - lastByteAt)} ms after the last byte` : `${Math.round(exitedAt - signalledAt)} ms after SIGTERM`
  const { stallMs, beforeMb, stopMb } = measured
  console.log(`${idle} idle, ${busy} in flight, ${webSockets} WebSockets, ${streams} streams: exit code ${code}, ${after}; ` +
    `answered ${done.answered}, told 1001 ${done.told}, streams ended ${done.ended}; longest stall ${Math.round(stallMs)} ms, memory ${Math.round(beforeMb)} + ${Math.max(0, Math.round(stopMb))} MiB`)
}

await stop({})
await stop({ busy: 1 })
await stop({ idle: 1000, busy: 50 })
await stop({ idle: 10_000, busy: 500 })
await stop({ webSockets: 1000 })
await stop({ streams: 1000 })
await stop({ idle: 10_000, busy: 500, webSockets: 1000, streams: 1000 })
