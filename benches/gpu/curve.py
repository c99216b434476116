"""The loss curve of PyTorch + PEFT on the batches of the benchmark `curve`, and the two side by side.

    curve.py batches MODEL_DIR DOLLY.jsonl OUT.jsonl [updates]     batches of 8 rows of Dolly, with a cosine schedule
    curve.py torch MODEL_DIR BATCHES.jsonl ADAPTER_DIR [nf4]       trains from that adapter, prints a JSON line
    curve.py compare OWN.json TORCH.json                           the largest and the mean difference

With nf4 the linears of the blocks are rounded to 4-bit NormalFloat with double quantisation, written out here with plain tensor
operations (Dettmers et al. 2023): codes of blocks of 64, 8-bit codes of their scales in blocks of 256.
"""
import json
import math
import sys


def batches(model, data, out, updates=200):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for line in open(data):
        row = json.loads(line)
        if not row["response"].strip():
            continue
        context = f"\n\n{row['context']}" if row.get("context") else ""
        prompt = tokenizer(f"### Instruction:\n{row['instruction']}{context}\n\n### Response:\n")["input_ids"]
        answer = tokenizer(row["response"])["input_ids"] + [tokenizer.eos_token_id]
        tokens = (prompt + answer)[:512]
        if len(prompt) < len(tokens):
            rows.append({"tokens": tokens, "loss_from": len(prompt)})
    updates, warm_up = int(updates), 10
    with open(out, "w") as file:
        for step in range(updates):
            progress = (step - warm_up) / (updates - warm_up)
            factor = step / warm_up if step < warm_up else 0.5 * (1 + math.cos(math.pi * progress))
            samples = [rows[(8 * step + i) * 7919 % len(rows)] for i in range(8)]
            file.write(json.dumps({"learning_rate": 2e-4 * factor, "samples": samples}) + "\n")


def nf4(weight):
    """What the weight becomes when it is stored in 4 bits and widened again, in float32."""
    import torch

    code = torch.tensor([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                         -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                         0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                         0.7229568362236023, 1.0], device=weight.device)
    # Codes of scales: for each power of ten the means of a grid, both signs, with 0 and 1.
    values = [0.0, 1.0]
    for i in range(7):
        grid = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64)
        means = ((grid[1:] + grid[:-1]) / 2 * 10.0 ** (i - 6)).tolist()
        values += means + [-mean for mean in means]
    scale_code = torch.tensor(sorted(values), dtype=torch.float32, device=weight.device)

    def quantise(x, code, block):
        blocks = torch.nn.functional.pad(x, (0, -len(x) % block)).view(-1, block)
        most = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-38)
        index = torch.bucketize(blocks * (1 / most), (code[1:] + code[:-1]) / 2)
        return code[index], most

    x = weight.float().flatten()
    codes, scales = quantise(x, code, 64)
    offset = scales.mean()
    scale_codes, most = quantise(scales.flatten() - offset, scale_code, 256)
    scales = (scale_codes * most).flatten()[: len(scales)] + offset
    return (codes * scales[:, None]).flatten()[: len(x)].view_as(weight)


def torch_curve(model, path, adapter, stored="bf16"):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").cuda()
    if stored == "nf4":
        for layer in base.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for linear in part.children():
                    if isinstance(linear, torch.nn.Linear):
                        linear.weight.data = nf4(linear.weight.data).to(torch.bfloat16)
    net = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    net.train()
    trained = [p for p in net.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
    losses = []
    for line in open(path):
        update = json.loads(line)
        rows = update["samples"]
        longest = max(len(row["tokens"]) for row in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            n = len(row["tokens"])
            tokens[i, :n] = torch.tensor(row["tokens"])
            labels[i, row["loss_from"]:n] = tokens[i, row["loss_from"]:n]
            mask[i, :n] = 1
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = net(input_ids=tokens.cuda(), attention_mask=mask.cuda()).logits
        shifted = labels[:, 1:].reshape(-1).cuda()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), shifted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = update["learning_rate"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    print(json.dumps({"weights": stored, "losses": losses}))


def compare(own, other):
    rows = [json.loads(open(path).read().strip().splitlines()[-1]) for path in (own, other)]
    pairs = list(zip(rows[0]["losses"], rows[1]["losses"]))
    differences = [abs(a - b) / b for a, b in pairs]
    print(f"{rows[0]['weights']}: {len(pairs)} updates, loss {pairs[0][0]:.4f} to {pairs[-1][0]:.4f} (PyTorch {pairs[0][1]:.4f} to "
          f"{pairs[-1][1]:.4f}); relative difference at most {max(differences):.2%}, mean {sum(differences) / len(pairs):.3%}")


{"batches": batches, "torch": torch_curve, "compare": compare}[sys.argv[1]](*sys.argv[2:])
