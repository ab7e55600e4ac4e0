// A question of the self-test answers at once; without this script its fold does.
const number = (text) => Number(text.trim().replace(",", ".").replace("−", "-"));
const near = (a, b, within) => Math.abs(a - b) <= within + 1e-9;

for (const form of document.querySelectorAll("form.question")) {
  const { answer, tolerance = 0 } = form.dataset;
  const button = form.querySelector("button");
  const says = form.querySelector("output");
  button.disabled = button.hidden = false;

  form.addEventListener("change", () => says.replaceChildren());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = form.elements[form.id].value;
    const given = number(text);
    says.className = "";
    if (!text.trim() || Number.isNaN(given)) {
      const radio = form.querySelector("[type=radio]");
      says.textContent = radio ? "Choose an answer first." : "Write a number, such as 0.25.";
    } else if (near(given, answer, +tolerance)) {
      says.className = "right";
      says.innerHTML = `✓ Right. ${form.querySelector(".why").innerHTML}`;
    } else {
      const known = [...form.querySelectorAll("li")].find((li) =>
        near(given, li.dataset.value, +tolerance),
      );
      const why = known ? known.querySelector(".belief").innerHTML : "";
      says.className = "wrong";
      says.innerHTML = `✗ Not this one. ${why} Try again, or open the answer.`;
    }
  });
}
