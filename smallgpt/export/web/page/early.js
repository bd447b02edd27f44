// Before the modules, which browsers do not load from a file: what would be missing is told.
"use strict";
(function () {
  const words = [
    "Opened as a file, this page may not load its model. Serve its folder instead, for example: python -m http.server -d FOLDER",
    "以文件方式打开时，浏览器不允许本页加载模型。请用文件服务器打开此文件夹，例如：python -m http.server -d 文件夹",
  ];
  if (location.protocol !== "file:") return;
  const chinese = /^zh/i.test(navigator.language);
  document.documentElement.dataset.lacking = "file";
  document.addEventListener("DOMContentLoaded", function () {
    const place = document.getElementById("problem");
    if (place === null) return;
    place.textContent = words[chinese ? 1 : 0];
    place.hidden = false;
  });
})();
