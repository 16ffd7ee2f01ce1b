// Looks at the status page in a real browser, and asserts what somebody who sits in front of it would notice.
//
//   node check.mjs URL SCREENSHOT [EXPECTED]
//
// EXPECTED is JSON: { client: [namespace, pod], services: [..], route: [..], proxies: n }. OUTRIDER_BROWSER names the browser's binary;
// without it Playwright's own is taken.

import assert from "node:assert/strict";
import { chromium } from "playwright";

const [url, screenshot, json] = process.argv.slice(2);
assert.ok(url && screenshot, "usage: node check.mjs URL SCREENSHOT [EXPECTED]");
const expected = JSON.parse(json ?? "{}");
const LIMIT = 30_000;

const browser = await chromium.launch({
  executablePath: process.env.OUTRIDER_BROWSER || undefined,
  // Where everybody is root there is no sandbox to be had, and the only page is ours.
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});

const steps = [];
const step = (name, run) => steps.push([name, run]);
const complaints = [];

async function open(options) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light", ...options });
  page.setDefaultTimeout(LIMIT);
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => { if (!request.url().startsWith(url)) complaints.push(`it asked for ${request.url()}`); });
  await page.goto(url);
  await page.waitForSelector("#live[data-state=live]");
  return page;
}

const node = (id) => `[data-node="${id}"]`;
const shows = (page, selector, words) => page.waitForFunction(
  ([selector, words]) => new RegExp(words).test(document.querySelector(selector)?.textContent ?? ""), [selector, words]);

const page = await open({});

step("services and the client are in the mesh", async () => {
  for (const name of expected.services ?? []) await page.waitForSelector(node(`service/${name}`));
  if (expected.client) await page.waitForSelector(node(`workload/${expected.client.join("/")}`));
});

step("traffic shows at the edges", async () => {
  for (const name of expected.services ?? []) {
    const edge = `[data-edge="workload/${expected.client.join("/")}>service/${name}"]`;
    await page.waitForFunction((edge) => /[1-9][0-9.k]* req\/s.*ms/.test(document.querySelector(`.tag${edge}`)?.textContent ?? ""), edge);
  }
  await shows(page, "#tiles", "Requests[1-9][0-9.k]* /s");
});

step("proxies are listed, in sync, with their rates", async () => {
  await page.waitForFunction((count) => document.querySelectorAll("#proxies tbody tr").length === count, expected.proxies ?? 1);
  await shows(page, "#proxies", "synced");
  if (expected.client) await shows(page, "#proxies", expected.client[1]);
  await shows(page, "#proxies", "[1-9][0-9.k]*/s");
});

step("routes say where requests go", async () => {
  for (const words of expected.route ?? []) await shows(page, "#routes", words);
});

step("what a proxy changed last, and its ledger", async () => {
  await shows(page, "#generations", "added");
  await shows(page, "#ledger", "[1-9][0-9]* enforced");
});

step("words of strangers stay words", async () => {
  if (!expected.problem) return;
  await shows(page, "#problems", expected.problem);
  assert.equal(await page.locator("main img, main script, main iframe").count(), 0);
  assert.match(await page.title(), /^(\([0-9]+\) )?Outrider$/);
});

step("an update leaves what it does not change", async () => {
  const [first] = expected.services ?? [];
  if (!first) return;
  await page.evaluate((selector) => { document.querySelector(selector).mark = "mine"; }, node(`service/${first}`));
  const before = await page.textContent("#footer");
  await page.waitForFunction((before) => document.querySelector("#footer").textContent !== before, before);
  assert.equal(await page.evaluate((selector) => document.querySelector(selector).mark, node(`service/${first}`)), "mine");
});

step("it can be used by keyboard", async () => {
  const [first] = expected.services ?? [];
  if (!first) return;
  await page.focus(node(`service/${first}`));
  await page.keyboard.press("Enter");
  await shows(page, "#detail", `${first}: service`);
  await shows(page, "#detail", "called by");
  assert.equal(await page.getAttribute(node(`service/${first}`), "aria-pressed"), "true");
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => document.querySelector("#detail").textContent === "");
  await page.evaluate(() => document.activeElement.blur());
});

step("nobody else's page gets anything", async () => {
  const answer = await page.request.post(url, { failOnStatusCode: false });
  assert.equal(answer.status(), 405);
  const head = (await page.request.get(url)).headers();
  assert.match(head["content-security-policy"], /default-src 'none'/);
  assert.ok(!("access-control-allow-origin" in head));
});

step("the picture is taken", async () => {
  await page.screenshot({ path: screenshot, fullPage: true, animations: "disabled" });
});

step("it is as wide as a phone, and dark where that is wanted", async () => {
  const phone = await open({ viewport: { width: 390, height: 844 }, colorScheme: "dark" });
  await phone.waitForSelector(".node");
  const { wide, color } = await phone.evaluate(() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    color: getComputedStyle(document.body).backgroundColor,
  }));
  assert.ok(wide <= 0, `${wide} pixels too wide`);
  assert.ok(color.match(/\d+/g).slice(0, 3).every((part) => Number(part) < 64), color);
  await phone.close();
});

step("the browser has nothing to complain of", async () => assert.deepEqual(complaints, []));

let failed = 0;
for (const [name, run] of steps) {
  try {
    await run();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error.message}`);
  }
}
if (failed) {
  await page.screenshot({ path: `${screenshot}.failed.png`, fullPage: true }).catch(() => {});
  console.log(await page.textContent("body").catch((error) => error.message));
}
await browser.close();
process.exit(failed ? 1 : 0);
