/** Results of ISO 15765-2:2016, 8.3.7, as far as there is something to say. */
export type IsoTpResult =
  | "N_TIMEOUT_A"
  | "N_TIMEOUT_Bs"
  | "N_TIMEOUT_Cr"
  | "N_WRONG_SN"
  | "N_INVALID_FS"
  | "N_UNEXP_PDU"
  | "N_WFT_OVRN"
  | "N_BUFFER_OVFLW"
  | "N_ERROR";

/** Why a message was not sent or not received. */
export interface Problem {
  readonly result: IsoTpResult;
  /** For people; tells the result, too. */
  readonly text: string;
}

export function problem(result: IsoTpResult, text: string): Problem {
  return { result, text: `${text} (${result})` };
}
