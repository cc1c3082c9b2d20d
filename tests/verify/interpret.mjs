// Runs a definition, for tests of the interpreter: node interpret.mjs FOLDER < {definition, input, answers} > what came.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Broken, Failed, Machine } from '../../verify/definitions/interpreter.mjs'

const require = createRequire(join(process.argv[2], 'index.js'))
const { definition, input, answers } = JSON.parse(readFileSync(0, 'utf8'))
const calls = []

function call (integration, args, clock, state) {
  calls.push([state, args, clock.now])
  const { takes = 0, error, result } = answers[calls.length - 1]
  clock.now += takes
  if (error) throw new Failed(error, 'a cause')
  return result
}

let ended
try {
  ended = await new Machine(require('jsonata'), definition, call).run(input)
} catch (error) {
  if (!(error instanceof Broken)) throw error
  ended = { broken: error.message }
}
process.stdout.write(JSON.stringify({ ...ended, calls }))
