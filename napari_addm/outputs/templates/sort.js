// A click on a head sorts by it, a second one turns the order, a third one restores the table.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  table.tHead.addEventListener("click", (event) => {
    const th = event.target.closest("button")?.parentElement;
    if (!th) return;
    const filled = rows.map((row) => key(row, th.cellIndex)).filter((text) => text !== "");
    const numeric = filled.every((text) => !Number.isNaN(Number(text)));
    const orders = numeric ? [null, "descending", "ascending"] : [null, "ascending", "descending"];
    const order = orders[(orders.indexOf(th.getAttribute("aria-sort")) + 1) % 3];
    for (const other of th.parentElement.cells) other.removeAttribute("aria-sort");
    if (order) th.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [key(a, th.cellIndex), key(b, th.cellIndex)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is undefined stays last
      return sign * (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    };
    body.append(...(order ? [...rows].sort(compare) : rows));
  });
}
