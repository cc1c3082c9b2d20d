// Runs definitions through scenarios: node scenarios.mjs FOLDER < apps > what is wrong.
// FOLDER is the one that npm installed into; see `verify.definitions` for what an app is.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { Broken } from './interpreter.mjs'
import { GOOD, POISONS, World } from './world.mjs'

const require = createRequire(join(process.argv[2], 'index.js'))
const jsonata = require('jsonata')
const { apps, only } = JSON.parse(readFileSync(0, 'utf8'))

const MOST = 32 // objects of a batch
const SIZES = [1, 2, 3, 5, 8, 16, 31, 32]
const FEW = [1, 5, 32]
const BUSY = ['Lambda.TooManyRequestsException', 'Lambda.ServiceException', 'Lambda.SnapStartNotReadyException']

/** Numbers that look random and are the same in each run. */
function numbers (seed) {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

function batch (size, fates, next) {
  const choose = (values) => values[Math.floor(next() * values.length)]
  return Array.from({ length: size }, (_, index) => ({
    fate: fates(index),
    // What the apps of several models choose by.
    sure: choose([0.1, 0.9]),
    tags: choose([{ class: 'cheap' }, {}]),
    metadata: choose([{ model: 'other' }, {}]),
    decision: choose(['left', 'right'])
  }))
}

/** Yield the scenarios: all for one app, and for the others those that are not much alike. */
function * scenarios (tries, all) {
  // Somebody's fault: the object that is to blame becomes a dead letter after so many tries, and no other does.
  const deliveries = tries + 8
  let seed = 1
  for (const size of all ? SIZES : FEW) {
    const next = numbers(seed++)
    yield { name: `${size} good`, objects: batch(size, () => 'good', next), deliveries }
    yield { name: `${size} of all kinds that end as a row`, objects: batch(size, () => [...GOOD, 'superseded'][Math.floor(next() * 3)], next), deliveries }
    for (const poison of POISONS) {
      for (const position of new Set([0, size >> 1, size - 1])) {
        const objects = batch(size, (index) => index === position ? poison : 'good', next)
        yield { name: `${position + 1} of ${size} ${poison}`, objects, deliveries }
      }
    }
  }
  for (const poison of POISONS) {
    for (const count of [4, 8, MOST]) {
      const objects = batch(MOST, (index) => index < count ? poison : 'good', numbers(seed++))
      yield { name: `the first ${count} of ${MOST} ${poison}`, objects, deliveries: deliveries + 12 }
    }
  }
  for (let number = 0; number < (all ? 60 : 20); number++) {
    const next = numbers(seed++)
    const fates = [...GOOD, ...GOOD, ...GOOD, ...POISONS, 'superseded']
    const objects = batch(1 + Math.floor(next() * MOST), () => fates[Math.floor(next() * fates.length)], next)
    for (const object of objects) object.received = 1 + Math.floor(next() * 3)
    yield { name: `mix ${number}`, objects, deliveries: deliveries + 12 }
  }

  // Nobody's fault: all objects get their rows in the end, whatever it takes.
  const rows = (size, more) => ({ objects: batch(size, () => 'good', numbers(seed++)), deliveries: 60, ...more })
  for (const size of all ? [1, 7, MOST] : [MOST]) {
    for (const error of all ? BUSY : BUSY.slice(-1)) {
      for (const of of [undefined, 'preprocess', 'infer', 'postprocess', 'fused']) {
        for (const times of all ? [1, 4, 30] : [4, 30]) {
          yield { name: `${size}, ${error} ${times} times of ${of ?? 'all'}`, ...rows(size, { lambda: { error, times, of } }) }
        }
      }
    }
    for (const times of [1, size, 4 * size]) {
      yield { name: `${size}, S3 serves ${times} later`, ...rows(size, { unserved: { times } }) }
      yield { name: `${size}, ${times} rows later`, ...rows(size, { table: { times } }) }
      yield { name: `${size}, S3 looks up ${times} later`, ...rows(size, { s3: { error: 'S3.S3Exception', times } }) }
      yield { name: `${size}, hands over ${times} later`, ...rows(size, { states: { error: 'StepFunctions.SdkClientException', times } }) }
      const dead = batch(size, () => 'raises', numbers(seed++))
      yield { name: `${size}, buries ${times} later`, objects: dead, deliveries: 120, sqs: { error: 'Sqs.SdkClientException', times } }
    }
    // The execution fails as a whole, so that somebody sees it.
    yield { name: `${size}, nobody may invoke`, ...rows(size, { lambda: { error: 'Lambda.AccessDeniedException', times: 3 }, mayFail: true }) }
    const error = 'Lambda.TooManyRequestsException'
    yield { name: `${size}, throttled for ever`, ...rows(size, { lambda: { error, of: 'preprocess' }, endless: true }) }
    yield { name: `${size}, throttled for ever, fused`, ...rows(size, { lambda: { error, of: 'fused' }, endless: true }) }
    yield { name: `${size}, as large as may be`, ...rows(size, { large: true }) }
    const objects = batch(size, () => 'good', numbers(seed++))
    // A key of 1,024 bytes is six times as long in JSON.
    for (const [index, object] of objects.entries()) object.key = String(index).padStart(4, '0') + '\u0001'.repeat(1020)
    yield { name: `${size}, the longest keys`, objects, deliveries }
  }
}

/** Leave out faults of what an app does not have, which would be nothing but `good` once more. */
function concerns (app, { lambda, states, s3, unserved, sqs, endless }) {
  const does = new Set(Object.values(app.functions).map((one) => one.does))
  if (lambda?.of !== undefined && !does.has(lambda.of)) return false
  const calls = JSON.stringify(Object.values(app.machines).map((one) => one.definition))
  if (states && !calls.includes(':states:startExecution')) return false
  if (s3 && !calls.includes(':aws-sdk:s3:')) return false
  return !sqs || calls.includes(':sqs:sendMessage')
}

const findings = []
let asked = 0
let largest = 0
for (const [number, app] of apps.entries()) {
  for (const scenario of scenarios(app.tries, number === 0)) {
    if (!concerns(app, scenario) || (only && !only.includes(scenario.name))) continue
    asked++
    const world = new World(jsonata, app, scenario)
    let problems
    try {
      problems = await world.play()
    } catch (error) {
      if (!(error instanceof Broken)) throw error
      problems = [error.message]
    }
    largest = Math.max(largest, world.largest)
    if (problems.length) findings.push({ app: app.name, subject: scenario.name, message: `${problems[0]}${problems.length > 1 ? ` (and ${problems.length - 1} more)` : ''}` })
  }
}
process.stdout.write(JSON.stringify({ asked, largest, findings }))
