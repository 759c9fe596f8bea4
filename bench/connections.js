// What a stop does with connections: the time from the last byte to the exit, and the longest stall of the event loop
// with 10,000 idle keep-alive connections and 500 requests in flight.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'

const request = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`

async function stop (idle, busy) {
  const server = fork(new URL('connections-server.js', import.meta.url), { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] })
  const [{ port }] = await once(server, 'message')
  const open = async () => {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    return socket.on('error', () => {})
  }
  let answered = 0
  let lastByteAt = 0
  for (let i = 0; i < idle; i += 100) {
    await Promise.all(Array.from({ length: Math.min(100, idle - i) }, async () => {
      const socket = await open()
      socket.write(request('/'))
      await once(socket, 'data')
      socket.resume()
    }))
  }
  await Promise.all(Array.from({ length: busy }, async () => {
    const socket = await open()
    socket.on('data', (chunk) => {
      if (String(chunk).startsWith('HTTP/1.1 200 ')) answered++
      lastByteAt = performance.now()
    })
    socket.write(request('/slow'))
  }))
  let stallMs
  server.on('message', (message) => { stallMs = message.stallMs })
  await new Promise((resolve) => setTimeout(resolve, 300))
  const signalledAt = performance.now()
  server.kill('SIGTERM')
  const [code] = await once(server, 'exit')
  const exitedAt = performance.now()
  await new Promise((resolve) => setImmediate(resolve))
  const after = busy > 0 ? `${Math.round(exitedAt - lastByteAt)} ms after the last byte` : `${Math.round(exitedAt - signalledAt)} ms after SIGTERM`
  console.log(`${String(idle).padStart(6)} idle connections, ${String(busy).padStart(3)} requests in flight: exit code ${code}, ${after}; answered ${answered}; longest stall ${Math.round(stallMs)} ms`)
}

await stop(0, 0)
await stop(0, 1)
await stop(1000, 50)
await stop(10_000, 500)
